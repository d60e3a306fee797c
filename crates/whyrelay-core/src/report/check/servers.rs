//! Rows about STUN and TURN servers, a block for each URL.

use super::rows::milliseconds;
use super::{Row, Section, State};
use crate::diagnosis::evidence::{FailedServer, SideEvidence};
use crate::trace::address::AddressClass;
use crate::trace::event::{ServerFailure, Transport};
use crate::trace::measurement::Measurement;

pub(super) fn of(side: &SideEvidence) -> Vec<Row> {
    let mut rows = Vec::new();
    for (known, url, announced) in &side.servers_known {
        let mut push = |name, value: String, state, evidence: Vec<u64>| {
            rows.push(Row { section: Section::Servers, subject: url.clone(), name, value, state, evidence });
        };
        if *announced {
            push("announced by", "the signaling server".to_owned(), State::Plain, vec![*known]);
        }
        names(side, url, &mut push);
        if url.starts_with("turn") {
            turn(side, url, &mut push);
        }
        for (seq, fact) in &side.measured.facts {
            if let Some((name, value, state)) = measured(url, fact, side) {
                push(name, value, state, vec![*seq]);
            }
        }
    }
    for (seq, fact) in &side.measured.facts {
        if let Measurement::Clock { server, offset_ms, precision_ms } = fact {
            let off = offset_ms.unsigned_abs() > u64::from(*precision_ms) + 30_000;
            let (section, subject, name) = (Section::Servers, server.clone(), "clock");
            let seconds = *offset_ms as f64 / 1000.0;
            let exact = if *precision_ms < 1000 {
                format!("{precision_ms} ms")
            } else {
                format!("{:.1} s", f64::from(*precision_ms) / 1000.0)
            };
            let value = if offset_ms.unsigned_abs() <= u64::from(*precision_ms) {
                format!("agrees with ours (exact to {exact})")
            } else {
                format!("{seconds:+.1} s against ours (exact to {exact})")
            };
            let state = if off { State::Warning } else { State::Good };
            rows.push(Row { section, subject, name, value, state, evidence: vec![*seq] });
        }
    }
    rows
}

fn names(side: &SideEvidence, url: &str, push: &mut impl FnMut(&'static str, String, State, Vec<u64>)) {
    let host = url.split_once(':').map_or(url, |(_, rest)| rest);
    let asked = side.names.iter().find(|(_, name, ..)| {
        host.strip_prefix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '?']))
    });
    let Some((seq, _, addresses, error)) = asked else { return };
    match error {
        Some(error) => push("name", error.clone(), State::Bad, vec![*seq]),
        None => {
            let list = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            push("name", list, State::Good, vec![*seq]);
        }
    }
}

/// From the first 401 to the relayed address.
fn turn(side: &SideEvidence, url: &str, push: &mut impl FnMut(&'static str, String, State, Vec<u64>)) {
    let failures: Vec<&FailedServer> = side.server_failures.iter().filter(|failed| failed.server == url).collect();
    let challenged = failures.iter().find(|failed| {
        matches!(failed.failure, ServerFailure::ErrorResponse { code: 401, expected: true, .. })
            || failed.failure == ServerFailure::NoCredentials
    });
    if let Some(failed) = challenged {
        push("first 401", "asks for credentials, as it should".to_owned(), State::Good, vec![failed.seq]);
    }
    let allocated: Vec<_> = side.allocated.iter().filter(|(_, (_, server))| server == url).collect();
    let refused = failures
        .iter()
        .find(|failed| matches!(failed.failure, ServerFailure::ErrorResponse { code: 401, expected: false, .. }));
    match (allocated.first(), refused) {
        (Some((_, (seq, _))), _) => push("authentication", "accepted".to_owned(), State::Good, vec![*seq]),
        (None, Some(failed)) => {
            push("authentication", "refused: user name or password".to_owned(), State::Bad, vec![failed.seq]);
        }
        (None, None) => {}
    }
    for (relayed, (seq, _)) in &allocated {
        let class = AddressClass::of(relayed.ip());
        let server_public = side.servers.iter().any(|((_, _, server), path)| {
            let ours = path.allocation.as_ref().is_some_and(|allocation| allocation.relayed.contains(relayed));
            ours && AddressClass::of(server.ip()) == AddressClass::Public
        });
        let (value, state) = if server_public && class != AddressClass::Public {
            (format!("relays at {relayed}, which nobody outside of the server's network can reach"), State::Bad)
        } else {
            (format!("relays at {relayed}"), State::Good)
        };
        push("allocation", value, state, vec![*seq]);
    }
    let failed = failures.iter().find_map(|failed| Some((failed.seq, words(&failed.failure)?)));
    if let (true, Some((seq, why))) = (allocated.is_empty(), failed) {
        push("allocation", why, State::Bad, vec![seq]);
    }
}

fn words(failure: &ServerFailure) -> Option<String> {
    Some(match failure {
        ServerFailure::ErrorResponse { expected: true, .. } => return None,
        ServerFailure::ErrorResponse { code, reason, .. } => format!("error {code} {reason}").trim().to_owned(),
        ServerFailure::Timeout { transmissions, .. } => format!("no answer to {transmissions} requests"),
        ServerFailure::ConnectionFailed { detail }
        | ServerFailure::BadResponse { detail }
        | ServerFailure::Unresolved { detail } => detail.clone(),
        ServerFailure::NoCredentials => "no user name or password to answer with".to_owned(),
        ServerFailure::SendFailed { errno } => refused(*errno),
        ServerFailure::NoLocalAddress => super::super::words::NO_LOCAL_ADDRESS.to_owned(),
    })
}

fn measured(url: &str, fact: &Measurement, side: &SideEvidence) -> Option<(&'static str, String, State)> {
    match fact {
        Measurement::RelayEcho { server, relayed, rtt_us, sent } if server == url => Some(match rtt_us {
            Some(us) => ("permission and echo", format!("through {relayed} in {}", milliseconds(*us)), State::Good),
            None if !udp_passes(side) => {
                let value = format!("permission given; echo not told: our own packets to {relayed} go over UDP");
                ("permission and echo", value, State::Plain)
            }
            None => ("permission and echo", format!("nothing of {sent} packets came through {relayed}"), State::Bad),
        }),
        Measurement::Certificate { server, name, names, not_after_s, chain, refused } if server == url => {
            let now_s = side.last_at.as_micros() / 1_000_000;
            let days = not_after_s.map(|end| (end as i64 - now_s as i64) / 86_400);
            let ends = days.map_or_else(String::new, |days| format!(", ends in {days} days"));
            Some(match refused {
                Some(why) => {
                    let shown = if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
                    ("certificate", format!("not trusted for {name}: {why} (it is for {shown}{ends})"), State::Bad)
                }
                None => {
                    let soon = days.is_some_and(|days| days < 14);
                    let value = format!("trusted for {name}, chain of {chain}{ends}");
                    ("certificate", value, if soon { State::Warning } else { State::Good })
                }
            })
        }
        Measurement::TimedCredentials { server, expires_s, signed } if server == url => {
            let now_s = side.last_at.as_micros() / 1_000_000;
            let left = *expires_s as i64 - now_s as i64;
            let signed = match signed {
                Some(true) => ", signed with the secret",
                Some(false) => ", NOT signed with the secret",
                None => ", signature not checked: it takes --turn-secret-file",
            };
            let (value, state) = if left < 0 {
                (format!("expired {} ago{signed}", lasting(-left)), State::Bad)
            } else {
                (format!("hold for {} more{signed}", lasting(left)), State::Good)
            };
            let state = if signed.contains("NOT") { State::Bad } else { state };
            Some(("timed credentials", value, state))
        }
        _ => None,
    }
}

/// Why packets to a server were refused, by Linux's numbers: by its host, by a router, or by this one.
fn refused(errno: i32) -> String {
    let why = match errno {
        1 | 13 => "this host's firewall refuses packets to it",
        101 => "there is no route to it",
        111 => "its host says that the port is closed",
        113 => "a router says that its host is not there",
        _ => return format!("the system refused to send (errno {errno})"),
    };
    format!("{why} (errno {errno})")
}

/// Whether any server answered over UDP.
fn udp_passes(side: &SideEvidence) -> bool {
    side.measured.facts.iter().any(|(_, fact)| {
        matches!(fact, Measurement::Reach { transport: Transport::Udp, rtt_us: Some(_), .. })
            || matches!(fact, Measurement::MappedAddress { .. })
    })
}

/// Seconds, in the largest unit that there are two of.
fn lasting(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::{lasting, refused};

    #[test]
    fn a_refusal_says_whose_it_is() {
        assert_eq!(refused(111), "its host says that the port is closed (errno 111)");
        assert_eq!(refused(90), "the system refused to send (errno 90)");
    }

    #[test]
    fn times_are_told_in_units_that_one_can_picture() {
        let told = [0, 119, 120, 7199, 7200, 43_199, 172_799, 172_800].map(lasting);
        assert_eq!(told, ["0 s", "119 s", "2 min", "119 min", "2 h", "11 h", "47 h", "2 days"]);
    }
}
