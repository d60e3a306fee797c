//! Certificates for the laboratory's TURN server, good ones and others.

use std::io;
use std::net::IpAddr;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use whyrelay_lab::kernel::Certified;
use whyrelay_lab::scenario::file::Certificate;

/// Makes one for an address.
pub(super) fn certify(kind: Certificate, address: IpAddr) -> io::Result<Certified> {
    make(kind, address).map_err(io::Error::other)
}

fn make(kind: Certificate, address: IpAddr) -> Result<Certified, rcgen::Error> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let name = match kind {
        Certificate::WrongName => "another.example".to_owned(),
        _ => address.to_string(),
    };
    let key = KeyPair::generate()?;
    let mut server = CertificateParams::new(vec![name])?;
    server.is_ca = IsCa::ExplicitNoCa;
    if kind == Certificate::Expired {
        server.not_before = date_time_ymd(2020, 1, 1);
        server.not_after = date_time_ymd(2020, 4, 1);
    }
    let certificate = match kind {
        Certificate::SelfSigned => server.self_signed(&key)?,
        _ => server.signed_by(&key, &authority)?,
    };
    Ok(Certified { certificate: certificate.pem(), key: key.serialize_pem(), authority: authority.pem() })
}
