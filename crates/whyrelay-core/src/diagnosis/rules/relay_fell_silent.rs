//! The relay of a path that worked answers nobody any more.

use std::net::SocketAddr;

use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::evidence::SideEvidence;
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::session::{Path, Session};
use crate::trace::event::{ServerFailure, Transport, Vantage};

pub(super) const RULE: Rule = Rule {
    code: "WR411",
    name: "relay-fell-silent",
    title: "the relay of a path that worked answers nobody any more",
    meaning: "The session went through a TURN server, and that server stopped: its program or machine ended or was restarted, or its network is gone. The path between the two sides breaks with it, although nothing is wrong at either of them.",
    detection: "The path went through a relay and broke; from then on the relay's server answered none of at least three requests, or its host said that nothing listens there any more, or a connection to it could not be made. Of the peer's relay, where its recording is missing: its host said so of the relayed address.",
    proof: "The server's own log of that time, and whyrelay check from another network.",
    doubt: "An answer of the server after the cited events: then only the path to it was bad for a while.",
    fixes: &[
        Fix::safe("Look at the server: whether its program runs, and since when."),
        Fix::safe("Give both sides a second TURN server elsewhere (--turn), so that one that stops is no end."),
    ],
    threads: &["element-hq/element-android#1866", "strukturag/spreed-webrtc#405"],
    depends_on: &["WR705"],
    needs: &[Need::Sockets],
    examine,
};

/// Requests to a server, repeated ones included, that must stay without an answer.
const MANY: u32 = 3;

fn examine(session: &Session<'_>) -> Examination {
    if session.path != Path::Failed {
        return Examination::Clear;
    }
    let mut faults: Vec<Fault> = Vec::new();
    for vantage in session.recorded() {
        let Some((server, how, evidence)) = silent(session, vantage) else { continue };
        match faults.iter_mut().find(|fault| fault.summary.contains(&server.to_string())) {
            Some(known) => known.evidence.extend(evidence),
            None => faults.push(Fault {
                blame: Blame::Relay,
                severity: Severity::Error,
                summary: format!("The path went through the relay at {server}, which {how}"),
                evidence,
                ..Fault::default()
            }),
        }
    }
    Examination::of(faults)
}

/// The server behind the path that broke for a side, what it does since, and the events.
fn silent(session: &Session<'_>, vantage: Vantage) -> Option<(SocketAddr, String, Vec<u64>)> {
    let side = session.evidence.side(vantage);
    let outage = side.outage()?;
    let (_, pair) = side.selected_pair()?;
    let relayed = [(vantage, pair.local), (vantage.other(), pair.remote)];
    let owner = relayed.into_iter().find(|(vantage, address)| session.evidence.side(*vantage).is_relayed(*address));
    let Some((owner, relayed)) = owner else {
        // The peer's relay, and its recording did not come, as where signaling ended with the relay.
        let is_relay = !session.evidence.is_recorded(vantage.other()) && side.known.is_told_as_relayed(pair.remote);
        let seq = closed(side, pair.remote).filter(|_| is_relay)?;
        return Some((pair.remote, CLOSED.to_owned(), vec![outage.seq, seq]));
    };
    let client = session.evidence.side(owner);
    let mut paths = client.servers.iter().filter_map(|((transport, _, server), path)| {
        let allocation = path.allocation.as_ref()?;
        allocation.relayed.contains(&relayed).then_some((*transport, *server))
    });
    let (transport, server) = paths.next()?;
    let (how, seq) = gone(client, transport, server)?;
    Some((server, how, vec![outage.seq, seq]))
}

/// What a client of a server saw of it since its path broke.
fn gone(client: &SideEvidence, transport: Transport, server: SocketAddr) -> Option<(String, u64)> {
    let outage = client.outage()?;
    let since = || client.requests.values().filter(|request| request.server == server && request.first >= outage.at);
    if since().any(|request| request.answered) {
        return None;
    }
    if let Some(seq) = closed(client, server).filter(|_| transport == Transport::Udp) {
        return Some((CLOSED.to_owned(), seq));
    }
    let sent: u32 = since().map(|request| request.transmissions).sum();
    if let Some(first) = since().map(|request| request.seq).min().filter(|_| sent >= MANY) {
        return Some((format!("fell silent: it answered none of {sent} requests since the path broke"), first));
    }
    let failed = client.server_failures.iter().find(|failed| {
        matches!(failed.failure, ServerFailure::ConnectionFailed { .. })
            && failed.seq > outage.seq
            && failed.server.contains(&server.ip().to_string())
    });
    failed.map(|failed| ("takes no connection since the path broke".to_owned(), failed.seq))
}

const CLOSED: &str = "is gone: its host says that nothing listens there any more";

/// The event by which the host at an address says that nothing is at its port, since the path was selected.
fn closed(side: &SideEvidence, address: SocketAddr) -> Option<u64> {
    let (selected, _) = side.selected_pair()?;
    let closed = side.icmp_errors.iter().find(|((_, remote, kind, code), error)| {
        let is_port = matches!((remote.is_ipv4(), kind, code), (true, 3, 3) | (false, 1, 4));
        is_port && *remote == address && error.seq > selected && error.offender.is_none_or(|ip| ip == address.ip())
    });
    closed.map(|(_, error)| error.seq)
}
