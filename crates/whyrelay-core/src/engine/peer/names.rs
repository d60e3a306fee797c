//! Remote candidates with a name instead of an address.

use std::net::{IpAddr, SocketAddr};

use super::{Output, Peer};
use crate::engine::gather;
use crate::ice;
use crate::ice::candidate::{Candidate, CandidateAddress};
use crate::time::Now;
use crate::trace::event::{EventKind, RefuseReason};

/// Names of remote candidates that are looked up at the same time: a peer must not make us ask for more.
const MAX_LOOKUPS: usize = 16;

impl Peer {
    /// A candidate with a name is asked for by multicast DNS if it is a `.local` name. Others are refused: a peer must
    /// not make us look up names of its choice.
    pub(super) fn remote_candidate(&mut self, now: Now, candidate: Candidate) {
        let CandidateAddress::Name { name, .. } = &candidate.address else {
            self.ice(now, ice::Input::RemoteCandidate { candidate, resolved: None });
            return;
        };
        let refusal = if !name.ends_with(".local") {
            Some("only names under .local are looked up for a peer")
        } else if self.unresolved.len() >= MAX_LOOKUPS {
            Some("too many names are being looked up already")
        } else {
            None
        };
        if let Some(detail) = refusal {
            let reason = RefuseReason::Unresolved { detail: detail.into() };
            let event = EventKind::RemoteCandidateRefused { line: candidate.to_string(), reason };
            self.outputs.push_back(Output::Event(event));
            return;
        }
        let name = name.clone();
        if !self.unresolved.iter().any(|waiting| name_of(waiting) == Some(&name)) {
            self.outputs.push_back(Output::Resolve { name, multicast: true });
        }
        self.unresolved.push(candidate.clone());
        self.ice(now, ice::Input::RemoteCandidate { candidate, resolved: None });
    }

    pub(super) fn resolved(&mut self, now: Now, name: &str, result: Result<&[IpAddr], &str>) {
        match result {
            Ok(addresses) => self.gather(now, gather::Input::Resolved { name, addresses }),
            Err(detail) => self.gather(now, gather::Input::Unresolved { name, detail }),
        }
        let waiting = std::mem::take(&mut self.unresolved);
        let (of_name, others): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|candidate| name_of(candidate) == Some(name));
        self.unresolved = others;
        for candidate in of_name {
            let port = match &candidate.address {
                CandidateAddress::Name { port, .. } => *port,
                CandidateAddress::Ip(address) => address.port(),
            };
            let input = match result {
                Ok([first, ..]) => {
                    ice::Input::RemoteCandidate { candidate, resolved: Some(SocketAddr::new(*first, port)) }
                }
                Ok([]) => ice::Input::RemoteCandidateUnresolved { candidate, detail: "the name has no address".into() },
                Err(detail) => ice::Input::RemoteCandidateUnresolved { candidate, detail: detail.to_owned() },
            };
            self.ice(now, input);
        }
    }
}

fn name_of(candidate: &Candidate) -> Option<&str> {
    match &candidate.address {
        CandidateAddress::Name { name, .. } => Some(name),
        CandidateAddress::Ip(_) => None,
    }
}
