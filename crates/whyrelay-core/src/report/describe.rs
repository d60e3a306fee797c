//! One line for a reader about an event.

use std::fmt::Write as _;
use std::net::SocketAddr;

use serde_json::Value;

use crate::trace::event::{
    Datagram, Direction, DtlsState, Event, EventKind, IceState, PairState, ServerFailure, Side, SignalingState,
};
use crate::wire::demux::Protocol;
use crate::wire::dtls;
use crate::wire::stun::Message;
use crate::wire::turn::ChannelData;

/// Characters of one line, at most: a peer can make a text of any length.
const MAX_LENGTH: usize = 600;

/// What an event says, in one line. Text that came from a peer is not escaped: each renderer does that in its own way.
pub fn describe(event: &Event) -> String {
    let line = line(&event.kind);
    match line.char_indices().nth(MAX_LENGTH) {
        Some((at, _)) => format!("{} …", &line[..at]),
        None => line,
    }
}

fn line(kind: &EventKind) -> String {
    match kind {
        EventKind::RecordingStarted { program, id, .. } => format!("{program} started recording as {id}"),
        EventKind::PeerIdentified { program, .. } => format!("the other side is {program}"),
        EventKind::RecordingEnded { reason } => format!("recording ended: {}", word(reason)),
        EventKind::PeerRecording { missing: None } => "the other side's recording came whole".to_owned(),
        EventKind::PeerRecording { missing: Some(why) } => format!("the other side's recording is missing: {why}"),
        EventKind::EventsDropped { count } => format!("{count} events are missing here"),
        EventKind::Signaling { server, state } => format!("signaling ({server}): {}", signaling(state)),
        EventKind::SignalMessage { direction, message, length } => {
            let verb = if *direction == Direction::Out { "sent" } else { "received" };
            format!("signaling: {verb} {message} ({length} bytes)")
        }
        EventKind::Description { side, description, ufrag, .. } => {
            format!("{} {description} took effect, ufrag {ufrag}", own(*side))
        }
        EventKind::ServerKnown { url, announced } => {
            let whence = if *announced { "announced by signaling" } else { "named by the user" };
            format!("server {url}, {whence}")
        }
        EventKind::SocketOpened { transport, local, .. } => format!("opened a {} socket on {local}", transport.name()),
        EventKind::SocketFailed { transport, local, detail, .. } => {
            format!("could not open a {} socket on {local}: {detail}", transport.name())
        }
        EventKind::Datagram(datagram) | EventKind::ProbeDatagram(datagram) => describe_datagram(datagram),
        EventKind::SendFailed { transport, local, remote, detail, .. } => {
            format!("the system refused to send {} {local} > {remote}: {detail}", transport.name())
        }
        EventKind::IcmpError { local, remote, offender, icmp_type, icmp_code, .. } => {
            let by = offender.map_or_else(String::new, |offender| format!(" from {offender}"));
            format!("ICMP error{by} (type {icmp_type}, code {icmp_code}) for {local} > {remote}")
        }
        EventKind::LocalCandidate { candidate, server, .. } => {
            let from = server.as_ref().map_or_else(String::new, |server| format!(" from {server}"));
            format!("own candidate {} {} {}{from}", candidate.kind, candidate.transport, candidate.address)
        }
        EventKind::RemoteCandidate { candidate, resolved } => {
            let resolved = resolved.map_or_else(String::new, |address| format!(" = {address}"));
            format!("peer's candidate {} {} {}{resolved}", candidate.kind, candidate.transport, candidate.address)
        }
        EventKind::EndOfCandidates { side: Side::Local } => "gathering is complete".to_owned(),
        EventKind::EndOfCandidates { side: Side::Remote } => "the other side has no more candidates".to_owned(),
        EventKind::ServerFailed { server, method, failure, .. } => format!("{server}: {method}: {}", failed(failure)),
        EventKind::Allocated { server, relayed, .. } => format!("relayed address {relayed} from {server}"),
        EventKind::PairStateChanged { pair, from, to, .. } => {
            format!("pair {} > {}: {} to {}", pair.local, pair.remote, pair_state(*from), pair_state(*to))
        }
        EventKind::PairFormed { pair, .. } => format!("pair {} > {} formed", pair.local, pair.remote),
        EventKind::PairNominated { pair, .. } => format!("pair {} > {} nominated", pair.local, pair.remote),
        EventKind::PairSelected { pair, .. } => format!("pair {} > {} selected", pair.local, pair.remote),
        EventKind::CheckRefused { local, remote, code, detail } => {
            let how = code.map_or_else(|| "dropped".to_owned(), |code| format!("answered with error {code}"));
            format!("check {remote} > {local} {how}: {detail}")
        }
        EventKind::IceStateChanged { to, reason, .. } => format!("ICE {}: {}", ice_state(*to), word(reason)),
        EventKind::Dtls { state } => format!("DTLS: {}", dtls_state(state)),
        EventKind::ChannelOpened { label } => format!("data channel {label} opened"),
        EventKind::ChannelClosed { detail } => format!("data channel closed: {detail}"),
        EventKind::HostFact { moment, fact } => {
            super::facts::describe(*moment, fact).unwrap_or_else(|| generic(kind).replacen("host fact: fact ", "", 1))
        }
        EventKind::ChannelPing { direction, answer, id } => {
            let verb = if *direction == Direction::Out { "sent" } else { "received" };
            let what = if *answer { "the answer to ping" } else { "ping" };
            format!("{verb} {what} {id} over the data channel")
        }
        other => generic(other),
    }
}

fn describe_datagram(datagram: &Datagram) -> String {
    let Datagram { direction, transport, local, remote, length, ref data, .. } = *datagram;
    let (verb, from, to) = match direction {
        Direction::Out => ("sent", local, remote),
        Direction::In => ("received", remote, local),
    };
    let mut line = format!("{verb} {} {from} > {to}: ", transport.name());
    describe_bytes(&mut line, data, length, 0);
    line
}

fn describe_bytes(line: &mut String, bytes: &[u8], length: u32, depth: u32) {
    // Writing to a string cannot fail.
    let _ = match Protocol::of(bytes) {
        Protocol::Stun => match Message::decode(bytes) {
            Ok(message) => write!(line, "{}", message.describe()),
            Err(_) => write!(line, "not STUN, {length} bytes"),
        },
        Protocol::TurnChannel if depth == 0 => match ChannelData::decode(bytes) {
            Some(inner) => {
                let _ = write!(line, "ChannelData 0x{:04x} with ", inner.number);
                let length = u32::try_from(inner.data.len()).unwrap_or(u32::MAX);
                return describe_bytes(line, inner.data, length, depth + 1);
            }
            None => write!(line, "ChannelData, {length} bytes"),
        },
        Protocol::Dtls => {
            let names: Vec<_> = dtls::records(bytes).into_iter().map(|record| record.content.name()).collect();
            let names = if names.is_empty() { "record".to_owned() } else { names.join(", ") };
            write!(line, "DTLS {names}, {length} bytes")
        }
        _ => write!(line, "{length} bytes"),
    };
}

fn signaling(state: &SignalingState) -> String {
    match state {
        SignalingState::Connected { by, seen_as: None } => format!("connected by {by}"),
        SignalingState::Connected { by, seen_as: Some(address) } => {
            format!("connected by {by}; the server sees this side at {address}")
        }
        SignalingState::Lost { detail } => format!("the connection broke: {detail}"),
        SignalingState::PeerPresent => "the other side is there".to_owned(),
        SignalingState::PeerInterrupted => "the other side was interrupted".to_owned(),
        SignalingState::PeerLeft => "the other side left".to_owned(),
        SignalingState::Failed { detail } => format!("failed: {detail}"),
    }
}

fn failed(failure: &ServerFailure) -> String {
    match failure {
        ServerFailure::Timeout { transmissions, took_us } => {
            format!("no answer to {transmissions} requests in {}", duration(*took_us))
        }
        ServerFailure::ErrorResponse { code, reason, .. } => format!("error {code} {reason}"),
        ServerFailure::ConnectionFailed { detail }
        | ServerFailure::BadResponse { detail }
        | ServerFailure::Unresolved { detail } => detail.clone(),
        ServerFailure::NoCredentials => "there is no user name or password for it".to_owned(),
        ServerFailure::SendFailed { errno } => format!("the system refused to send (errno {errno})"),
        ServerFailure::NoLocalAddress => super::words::NO_LOCAL_ADDRESS.to_owned(),
    }
}

fn dtls_state(state: &DtlsState) -> String {
    match state {
        DtlsState::Started { client: true } => "handshake started, as client".to_owned(),
        DtlsState::Started { client: false } => "handshake started, as server".to_owned(),
        DtlsState::FingerprintVerified => "the certificate is the one of the description".to_owned(),
        DtlsState::FingerprintMismatch { .. } => "the certificate is not the one of the description".to_owned(),
        DtlsState::Connected { version } => format!("{version} connected"),
        DtlsState::Failed { detail } => format!("failed: {detail}"),
        DtlsState::Closed => "closed".to_owned(),
    }
}

const fn own(side: Side) -> &'static str {
    match side {
        Side::Local => "own",
        Side::Remote => "the other side's",
    }
}

/// A pair's state, as it is written for a reader.
pub(super) const fn pair_state(state: PairState) -> &'static str {
    match state {
        PairState::Frozen => "frozen",
        PairState::Waiting => "waiting",
        PairState::InProgress => "in progress",
        PairState::Succeeded => "succeeded",
        PairState::Failed => "failed",
    }
}

pub(super) const fn ice_state(state: IceState) -> &'static str {
    match state {
        IceState::New => "new",
        IceState::Checking => "checking",
        IceState::Connected => "connected",
        IceState::Completed => "completed",
        IceState::Disconnected => "disconnected",
        IceState::Failed => "failed",
        IceState::Closed => "closed",
    }
}

/// The word of an enumeration of words, without hyphens.
pub(super) fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word.replace('-', " "),
        _ => "unknown".to_owned(),
    }
}

/// Any event: its kind, then its fields.
fn generic(kind: &EventKind) -> String {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(kind) else { return "unknown".to_owned() };
    let mut line = fields.remove("kind").and_then(|kind| Some(kind.as_str()?.replace('-', " "))).unwrap_or_default();
    for (index, (name, value)) in fields.iter().filter(|(_, value)| !value.is_null()).enumerate() {
        line.push_str(if index == 0 { ": " } else { ", " });
        line.push_str(&name.replace('_', " "));
        line.push(' ');
        plain(&mut line, value);
    }
    line
}

fn plain(line: &mut String, value: &Value) {
    match value {
        Value::String(text) => line.push_str(text),
        Value::Object(fields) => {
            if let (Some(local), Some(remote)) = (address(fields.get("local")), address(fields.get("remote"))) {
                let _ = write!(line, "{local} > {remote}");
                return;
            }
            for (index, (_, value)) in fields.iter().filter(|(_, value)| !value.is_null()).enumerate() {
                line.push_str(if index == 0 { "" } else { " " });
                plain(line, value);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                line.push_str(if index == 0 { "" } else { " " });
                plain(line, value);
            }
        }
        other => {
            let _ = write!(line, "{other}");
        }
    }
}

fn address(value: Option<&Value>) -> Option<SocketAddr> {
    value?.as_str()?.parse().ok()
}

/// Microseconds with a unit that a reader can take in at once.
pub(crate) fn duration(micros: u64) -> String {
    let (us, ms) = (micros as f64, micros as f64 / 1000.0);
    match micros {
        0 => "0 s".to_owned(),
        1..1000 => format!("{us:.0} µs"),
        1000..10_000 => format!("{ms:.1} ms"),
        10_000..1_000_000 => format!("{ms:.0} ms"),
        1_000_000..60_000_000 => format!("{:.2} s", ms / 1000.0),
        60_000_000..3_600_000_000 => format!("{} min {} s", micros / 60_000_000, micros % 60_000_000 / 1_000_000),
        _ => format!("{} h {} min", micros / 3_600_000_000, micros % 3_600_000_000 / 60_000_000),
    }
}
