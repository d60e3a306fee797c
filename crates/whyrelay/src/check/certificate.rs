//! What a server's certificate says: for whom it is, and until when.

use std::net::IpAddr;

use whyrelay_core::trace::measurement::Measurement;
use whyrelay_core::wire::portmap::shown;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::io::tls::Shown;

/// Names of one certificate that are kept.
const MAX_NAMES: usize = 16;

/// The measurement of what `server`, which should be `name`, showed.
pub(crate) fn measurement(server: String, name: String, shown: Shown) -> Measurement {
    let own = shown.chain.first().and_then(|der| Certificate::from_der(der).ok());
    let not_after_s = own.as_ref().map(|own| own.tbs_certificate().validity().not_after.to_unix_duration().as_secs());
    let names = own.as_ref().map(names).unwrap_or_default();
    let chain = u32::try_from(shown.chain.len()).unwrap_or(u32::MAX);
    Measurement::Certificate { server, name, names, not_after_s, chain, refused: shown.refused }
}

/// The names and addresses that it is for (RFC 9525 §6: the subject's common name counts no more).
fn names(own: &Certificate) -> Vec<String> {
    let Ok(Some((_, SubjectAltName(names)))) = own.tbs_certificate().get_extension::<SubjectAltName>() else {
        return Vec::new();
    };
    let text = |name: &GeneralName| match name {
        GeneralName::DnsName(name) => Some(shown(name.as_str())),
        GeneralName::IpAddress(octets) => match octets.as_bytes() {
            v4 if v4.len() == 4 => v4.first_chunk::<4>().map(|v4| IpAddr::from(*v4).to_string()),
            other => other.first_chunk::<16>().map(|v6| IpAddr::from(*v6).to_string()),
        },
        _ => None,
    };
    names.iter().filter_map(text).take(MAX_NAMES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_end_are_read_and_nonsense_is_not_believed() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters =
            rcgen::CertificateParams::new(vec!["turn.example.org".into(), "192.0.2.1".into()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let der = parameters.self_signed(&key).unwrap().der().to_vec();
        let shown = Shown { chain: vec![der.clone(), der], refused: None };
        let read = measurement("turns:x".into(), "x".into(), shown);
        let Measurement::Certificate { names, not_after_s, chain, .. } = read else { panic!("{read:?}") };
        assert_eq!(names, ["turn.example.org", "192.0.2.1"]);
        assert_eq!((not_after_s, chain), (Some(1_893_456_000), 2));
        let nonsense = Shown { chain: vec![vec![0x30, 0x82, 0xFF, 0xFF]], refused: Some("BadEncoding".into()) };
        let read = measurement("turns:x".into(), "x".into(), nonsense);
        assert!(matches!(read, Measurement::Certificate { not_after_s: None, chain: 1, refused: Some(_), .. }));
    }
}
