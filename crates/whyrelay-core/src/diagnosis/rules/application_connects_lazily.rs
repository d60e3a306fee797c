//! The application connects only when there is traffic.

use super::application_forces_relay::unread_environment;
use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::Blame;
use crate::diagnosis::session::Session;
use crate::host::{SoftwareName, Subject};
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR804",
    name: "application-connects-lazily",
    title: "the application connects only when there is traffic",
    meaning: "The VPN on this host keeps idle peers disconnected (lazy connections) and connects when traffic comes. A peer that is shown as idle or relayed for a moment is no fault.",
    detection: "The environment of the running program.",
    proof: "The same status some seconds after a ping to the peer.",
    doubt: "A status that stays relayed under traffic.",
    fixes: &[Fix::safe("Send traffic to the peer and look again, or turn lazy connections off (NB_LAZY_CONN=false).")],
    threads: &["netbirdio/netbird#3379", "netbirdio/docs#821"],
    depends_on: &[],
    needs: &[Need::Host(Subject::Software), Need::Other(unread)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    Examination::of(session.recorded().filter_map(|vantage| fault(session, vantage)).collect())
}

fn unread(session: &Session<'_>, vantage: Vantage) -> Option<String> {
    unread_environment(session, vantage, &[SoftwareName::Netbird])
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let host = &session.evidence.side(vantage).host;
    let seq = host.software.iter().find_map(|software| {
        let lazy = software.fact.environment.as_ref()?.get("NB_LAZY_CONN")?;
        matches!(lazy.trim().to_ascii_lowercase().as_str(), "1" | "t" | "true" | "on").then_some(software.seq)
    })?;
    Some(Fault {
        blame: Blame::side(vantage),
        summary: format!("The VPN on {} connects only when there is traffic (NB_LAZY_CONN)", vantage.name()),
        evidence: vec![seq],
        ..Fault::default()
    })
}
