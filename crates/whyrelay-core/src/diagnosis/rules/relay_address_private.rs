//! the relayed address is private.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::Session;
use crate::trace::address::AddressClass;

pub(super) const RULE: Rule = Rule {
    code: "WR404",
    name: "relay-address-private",
    title: "the relayed address is private",
    meaning: "The TURN server is reached at a public address and hands out relayed addresses that are private: it stands behind a NAT and was not told its public address. Nobody outside can send to such an address.",
    detection: "XOR-RELAYED-ADDRESS is private or carrier-grade while the server's own address is public.",
    proof: "XOR-RELAYED-ADDRESS in the cited answer, next to the address at which the server was reached.",
    doubt: "A peer that stands in the relay's own network and reaches the address.",
    fixes: &[Fix::safe("Tell the server its public address (coturn: external-ip=PUBLIC/PRIVATE).")],
    threads: &[
        "coturn/coturn#1474",
        "coturn/coturn#501",
        "bigbluebutton/bigbluebutton#14597",
        "netbirdio/netbird#4033",
    ],
    depends_on: &[],
    needs: &[Need::Sockets],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    let mut faults: Vec<Fault> = Vec::new();
    for vantage in session.recorded() {
        let mut told: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for ((_, _, server), path) in &session.evidence.side(vantage).servers {
            let Some(allocation) = &path.allocation else { continue };
            let private = allocation.relayed.iter().find(|relayed| {
                matches!(
                    AddressClass::of(relayed.ip()),
                    AddressClass::Private
                        | AddressClass::CarrierGrade
                        | AddressClass::LinkLocal
                        | AddressClass::Unspecified
                )
            });
            if let Some(relayed) = private.filter(|_| AddressClass::of(server.ip()) == AddressClass::Public) {
                // A server has one fault, however many addresses it gave.
                if let Some(known) = told.get(&server.ip()).and_then(|position| faults.get_mut(*position)) {
                    known.evidence.push(allocation.seq);
                    continue;
                }
                told.insert(server.ip(), faults.len());
                faults.push(Fault {
                    blame: Blame::Relay,
                    severity: Severity::Error,
                    summary: format!("{server} relays at {relayed}, which nobody outside of its network can reach"),
                    evidence: vec![allocation.seq],
                    ..Fault::default()
                });
            }
        }
    }
    Examination::of(faults)
}
