//! TLS as far as it leaves evidence: what the peers' library, rustls, says of a certificate.

use std::net::IpAddr;

use whyrelay_core::time::Timestamp;

use crate::scenario::file::Certificate;

/// The end of a certificate that has expired: 2020-04-01, as the namespaces' is made.
const ENDED: u64 = 1_585_699_200;

/// Why the certificate of a server that is called by its address is refused; nothing: it is good.
pub(super) fn refusal(certificate: Certificate, name: IpAddr, now: Timestamp) -> Option<String> {
    let why = match certificate {
        Certificate::Good => return None,
        Certificate::SelfSigned => "UnknownIssuer".to_owned(),
        Certificate::WrongName => format!(
            "certificate not valid for name \"{name}\"; certificate is only valid for DnsName(\"another.example\")"
        ),
        Certificate::Expired => {
            let now = now.as_micros() / 1_000_000;
            format!(
                "certificate expired: verification time {now} (UNIX), but certificate is not valid after {ENDED} \
                 ({} seconds ago)",
                now.saturating_sub(ENDED)
            )
        }
    };
    Some(format!("invalid peer certificate: {why}"))
}
