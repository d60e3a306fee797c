//! Rows about STUN and TURN servers, a block for each URL.

use std::net::{IpAddr, SocketAddr};

use super::rows::{milliseconds, too_late};
use super::{Row, Section, State, refusal};
use crate::diagnosis::evidence::{FailedServer, ServerPath, SideEvidence};
use crate::diagnosis::rules::tls_in_words;
use crate::engine::server_url::ServerUrl;
use crate::trace::address::AddressClass;
use crate::trace::event::{ServerFailure, Transport};
use crate::trace::measurement::Measurement;
use crate::wire::stun::Method;

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
            let exact = if *precision_ms < 1000 {
                format!("{precision_ms} ms")
            } else {
                format!("{:.1} s", f64::from(*precision_ms) / 1000.0)
            };
            let value = if offset_ms.unsigned_abs() <= u64::from(*precision_ms) {
                format!("agrees with ours (to within {exact})")
            } else {
                let way = if *offset_ms > 0 { "ahead of" } else { "behind" };
                format!("{} {way} ours (to within {exact})", off_by(offset_ms.unsigned_abs()))
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

/// From the first 401 to the relayed address: of each family apart, where the server has an address of both.
fn turn(side: &SideEvidence, url: &str, push: &mut impl FnMut(&'static str, String, State, Vec<u64>)) {
    if !has_both_families(side, url) {
        return turn_over(side, url, None, push);
    }
    for ipv4 in [true, false] {
        turn_over(side, url, Some(ipv4), &mut |name, value, state, evidence| {
            push(name, format!("{}{value}", over(Some(ipv4))), state, evidence);
        });
    }
}

/// Whether a server has an address of each family.
fn has_both_families(side: &SideEvidence, url: &str) -> bool {
    let addresses = addresses(side, url);
    [true, false].into_iter().all(|ipv4| addresses.iter().any(|address| address.is_ipv4() == ipv4))
}

/// What a row about one family begins with.
const fn over(ipv4: Option<bool>) -> &'static str {
    match ipv4 {
        Some(true) => "over IPv4: ",
        Some(false) => "over IPv6: ",
        None => "",
    }
}

/// The server's address that a relayed address was had from.
fn relaying(side: &SideEvidence, relayed: SocketAddr) -> Option<SocketAddr> {
    let has =
        |path: &ServerPath| path.allocation.as_ref().is_some_and(|allocation| allocation.relayed.contains(&relayed));
    side.servers.iter().find(|(_, path)| has(path)).map(|((.., server), _)| *server)
}

/// The same of one family alone.
fn turn_over(
    side: &SideEvidence,
    url: &str,
    ipv4: Option<bool>,
    push: &mut impl FnMut(&'static str, String, State, Vec<u64>),
) {
    let is_of =
        |address: Option<SocketAddr>| ipv4.is_none_or(|ipv4| address.is_none_or(|address| address.is_ipv4() == ipv4));
    let of_url = side.server_failures.iter().filter(|failed| failed.server == url);
    let failures: Vec<&FailedServer> = of_url.filter(|failed| is_of(failed.local)).collect();
    let challenged = failures.iter().find(|failed| {
        matches!(failed.failure, ServerFailure::ErrorResponse { code: 401, expected: true, .. })
            || failed.failure == ServerFailure::NoCredentials
    });
    if let Some(failed) = challenged {
        push("first 401", "asks for credentials, as it should".to_owned(), State::Good, vec![failed.seq]);
    }
    let of_url = side.allocated.iter().filter(|(_, (_, server))| server == url);
    let allocated: Vec<_> = of_url.filter(|(relayed, _)| is_of(relaying(side, **relayed))).collect();
    let refused = failures
        .iter()
        .find(|failed| matches!(failed.failure, ServerFailure::ErrorResponse { code: 401, expected: false, .. }));
    for (alternate, seq) in alternates(side, url, &is_of) {
        let (value, state) = sent_on(side, url, alternate);
        push("sent on to", value, state, vec![seq]);
    }
    if let Some(failed) = failures.iter().find(|failed| failed.failure == ServerFailure::NoCredentials) {
        let why = "not measured: no user name and password were given (--turn-user)".to_owned();
        push("authentication", why.clone(), State::Plain, vec![failed.seq]);
        push("allocation", why, State::Plain, vec![failed.seq]);
        return;
    }
    match (allocated.first(), refused) {
        (Some((_, (seq, _))), _) => push("authentication", "accepted".to_owned(), State::Good, vec![*seq]),
        (None, Some(failed)) => {
            push("authentication", "refused: user name or password".to_owned(), State::Bad, vec![failed.seq]);
        }
        (None, None) => {}
    }
    for (relayed, (seq, _)) in &allocated {
        let class = AddressClass::of(relayed.ip());
        let server_public =
            relaying(side, **relayed).is_some_and(|server| AddressClass::of(server.ip()) == AddressClass::Public);
        let (value, state) = if server_public && class != AddressClass::Public {
            (format!("relays at {relayed}, which nobody outside of the server's network can reach"), State::Bad)
        } else {
            (format!("relays at {relayed}"), State::Good)
        };
        push("allocation", value, state, vec![*seq]);
    }
    if let (true, Some((evidence, why, state))) =
        (allocated.is_empty(), failures.iter().find_map(|failed| words(side, failed)))
    {
        push("allocation", why, state, evidence);
    }
}

/// What went wrong, how it is to be taken, and the events that show it; `None`: nothing did.
fn words(side: &SideEvidence, failed: &FailedServer) -> Option<(Vec<u64>, String, State)> {
    let mut evidence = vec![failed.seq];
    if let (ServerFailure::Timeout { took_us, .. }, Some(local)) = (&failed.failure, failed.local) {
        let of_socket =
            side.servers.iter().filter(|((transport, own, _), _)| (*transport, *own) == (Transport::Udp, local));
        let answers = of_socket.filter_map(|(_, path)| path.answered_after_us);
        if let Some((after_us, seq)) = answers.filter(|(after_us, _)| after_us >= took_us).min() {
            evidence.push(seq);
            return Some((evidence, too_late(after_us), State::Warning));
        }
        if side.late().any(|late| late.local.ip() == local.ip()) {
            let why = "no answer while the check waited, on a network where others came later than that";
            return Some((evidence, why.to_owned(), State::Warning));
        }
    }
    let words = match &failed.failure {
        ServerFailure::ErrorResponse { expected: true, .. } => return None,
        ServerFailure::ErrorResponse { code, reason, .. } => format!("error {code} {reason}").trim().to_owned(),
        ServerFailure::Timeout { transmissions, .. } => format!("no answer to {transmissions} requests"),
        ServerFailure::ConnectionFailed { detail } => tls_in_words(detail),
        ServerFailure::BadResponse { detail } | ServerFailure::Unresolved { detail } => detail.clone(),
        ServerFailure::NoCredentials => "no user name or password to answer with".to_owned(),
        ServerFailure::SendFailed { errno } => {
            match refusal::of(side, failed.local, &addresses(side, &failed.server)) {
                Some(refusal) => {
                    evidence.push(refusal.seq);
                    refusal.words
                }
                None => refusal::by_errno(*errno),
            }
        }
        ServerFailure::NoLocalAddress => super::super::words::NO_LOCAL_ADDRESS.to_owned(),
    };
    Some((evidence, words, State::Bad))
}

/// Where the server of a URL is: its address, or what its name was resolved to.
fn addresses(side: &SideEvidence, url: &str) -> Vec<SocketAddr> {
    let (scheme, rest) = url.split_once(':').unwrap_or(("", url));
    let authority = rest.split('?').next().unwrap_or_default();
    let usual = if scheme.ends_with('s') { 5349 } else { 3478 };
    let bare = |text: &str| text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
    let (host, port) = match authority.rsplit_once(':').filter(|_| bare(authority).is_none()) {
        Some((host, port)) => (host, port.parse().unwrap_or(usual)),
        None => (authority, usual),
    };
    let resolved = side.names.iter().filter(|(_, name, ..)| name == host).flat_map(|(_, _, addresses, _)| addresses);
    bare(host).into_iter().chain(resolved.copied()).map(|ip| SocketAddr::new(ip, port)).collect()
}

/// The servers that a URL's own named in their place (300, RFC 8489 §10), one after the other.
fn alternates(side: &SideEvidence, url: &str, is_of: &impl Fn(Option<SocketAddr>) -> bool) -> Vec<(SocketAddr, u64)> {
    let mut named: Vec<(SocketAddr, u64)> = Vec::new();
    let mut asked: Vec<SocketAddr> = addresses(side, url).into_iter().filter(|server| is_of(Some(*server))).collect();
    while let Some(server) = asked.pop() {
        let of_server = side.servers.iter().filter(|((by, _, remote), _)| *remote == server && is_over(url, *by));
        for (alternate, seq) in of_server.filter_map(|(_, path)| path.alternate) {
            if !named.iter().any(|(known, _)| *known == alternate) {
                named.push((alternate, seq));
                asked.push(alternate);
            }
        }
    }
    named.sort_unstable_by_key(|(_, seq)| *seq);
    named
}

/// Whether a URL's server is asked over this: what one says over UDP it has not said over TCP.
fn is_over(url: &str, transport: Transport) -> bool {
    url.parse::<ServerUrl>().is_ok_and(|url| url.transport() == transport)
}

/// An alternate server of a URL, and what that one said.
fn sent_on(side: &SideEvidence, url: &str, alternate: SocketAddr) -> (String, State) {
    let of_alternate = || side.servers.iter().filter(|((by, _, remote), _)| *remote == alternate && is_over(url, *by));
    let paths = || of_alternate().map(|(_, path)| path);
    let refused = paths().flat_map(|path| &path.errors).find_map(|((method, code, authenticated), _)| {
        let is_challenge = *code == 438 || *code == 401 && !authenticated;
        (*method == Method::ALLOCATE && !is_challenge).then_some(*code)
    });
    let (what, state) = match (paths().find_map(|path| path.allocation.as_ref()), refused) {
        (Some(_), _) => ("it gave an allocation".to_owned(), State::Good),
        (None, Some(300)) => ("it sends on as well".to_owned(), State::Plain),
        (None, Some(code)) => (format!("it refuses an allocation with {code}"), State::Bad),
        (None, None) if paths().next().is_none() => ("it was not asked".to_owned(), State::Warning),
        (None, None) if paths().any(ServerPath::has_answered) => ("it gave no allocation".to_owned(), State::Bad),
        (None, None) => ("it did not answer".to_owned(), State::Bad),
    };
    (format!("{alternate}, by its answer 300 (Try Alternate): {what}"), state)
}

fn measured(url: &str, fact: &Measurement, side: &SideEvidence) -> Option<(&'static str, String, State)> {
    match fact {
        Measurement::RelayEcho { server, relayed, rtt_us, sent, .. } if server == url => {
            let family = relaying(side, *relayed).filter(|_| has_both_families(side, url));
            let over = over(family.map(|server| server.is_ipv4()));
            let (value, state) = match rtt_us {
                Some(us) => (format!("through {relayed} in {}", milliseconds(*us)), State::Good),
                None if !udp_passes(side) => {
                    let value = format!("permission given; echo not told: our own packets to {relayed} go over UDP");
                    (value, State::Plain)
                }
                None => (format!("nothing of {sent} packets came through {relayed}"), State::Bad),
            };
            Some(("permission and echo", format!("{over}{value}"), state))
        }
        Measurement::Certificate { server, name, names, not_after_s, chain, refused } if server == url => {
            let now_s = side.last_at.as_micros() / 1_000_000;
            let left = not_after_s.map(|end| {
                i64::try_from(end).unwrap_or(i64::MAX).saturating_sub(i64::try_from(now_s).unwrap_or(i64::MAX))
            });
            let ends = left.map_or_else(String::new, |left| match left {
                0.. => format!(", ends in {}", lasting(left)),
                _ => format!(", ended {} ago", lasting(-left)),
            });
            Some(match refused {
                Some(why) => {
                    let shown = if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
                    (
                        "certificate",
                        format!("not trusted for {name}: {} (it is for {shown}{ends})", tls_in_words(why)),
                        State::Bad,
                    )
                }
                None => {
                    let soon = left.is_some_and(|left| left < ENDS_SOON_S);
                    let value = format!("trusted for {name}, chain of {chain}{ends}");
                    ("certificate", value, if soon { State::Warning } else { State::Good })
                }
            })
        }
        Measurement::TimedCredentials { server, expires_s, made_here: true, .. } if server == url => {
            let left = *expires_s as i64 - (side.last_at.as_micros() / 1_000_000) as i64;
            let value = format!("made here from the secret, for {} more by this host's clock", lasting(left));
            Some(("timed credentials", value, State::Plain))
        }
        Measurement::TimedCredentials { server, expires_s, signed, .. } if server == url => {
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

/// A certificate that ends within this many seconds (14 days) should have been renewed: those that are renewed by
/// programs are a month before.
const ENDS_SOON_S: i64 = 14 * 86_400;

/// Whether any server answered over UDP.
fn udp_passes(side: &SideEvidence) -> bool {
    side.measured.facts.iter().any(|(_, fact)| {
        matches!(fact, Measurement::Reach { transport: Transport::Udp, rtt_us: Some(_), .. })
            || matches!(fact, Measurement::MappedAddress { .. })
    })
}

/// A difference of clocks: to the tenth of a second while it is small.
fn off_by(milliseconds: u64) -> String {
    match milliseconds {
        ..120_000 => format!("{:.1} s", milliseconds as f64 / 1000.0),
        _ => lasting(i64::try_from(milliseconds / 1000).unwrap_or(i64::MAX)),
    }
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
    use super::*;
    use crate::diagnosis::evidence::Evidence;
    use crate::time::Timestamp;
    use crate::trace::event::{Event, EventKind, Vantage};

    fn evidence(kinds: Vec<EventKind>) -> Evidence {
        let event = |(seq, kind)| Event { seq, at: Timestamp::from_micros(seq), vantage: Vantage::A, kind };
        Evidence::of(&(0..).zip(kinds).map(event).collect::<Vec<_>>())
    }

    #[test]
    fn a_refusal_says_whose_it_is() {
        let url = "turn:turn.example.org:3478";
        let (local, remote): (SocketAddr, SocketAddr) =
            ("192.168.1.2:40000".parse().unwrap(), "203.0.113.9:3478".parse().unwrap());
        let (icmp_type, icmp_code, errno, took_us) = (3, 13, 113, 1);
        let evidence = evidence(vec![
            EventKind::ServerKnown { url: url.into(), announced: false },
            EventKind::NameResolved {
                name: "turn.example.org".into(),
                addresses: vec![remote.ip()],
                took_us,
                error: None,
            },
            EventKind::IcmpError { local, remote, offender: "10.0.0.1".parse().ok(), icmp_type, icmp_code, errno },
            EventKind::ServerFailed {
                server: url.into(),
                local: Some(local),
                method: "Allocate".into(),
                failure: ServerFailure::SendFailed { errno },
            },
        ]);
        let rows = of(evidence.side(Vantage::A));
        let row = rows.iter().find(|row| row.name == "allocation").unwrap();
        assert_eq!(row.value, "10.0.0.1, on the way, refuses it: administratively prohibited (ICMP 3/13)");
        assert_eq!(row.evidence, [3, 2]);
    }

    #[test]
    fn each_family_of_a_name_has_rows_of_its_own() {
        let url = "turn:x.example:3478".to_owned();
        let addresses = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let failed = |local: &str, failure| EventKind::ServerFailed {
            server: url.clone(),
            local: local.parse().ok(),
            method: "Allocate".into(),
            failure,
        };
        let challenge = ServerFailure::ErrorResponse { code: 401, reason: String::new(), expected: true };
        let evidence = evidence(vec![
            EventKind::ServerKnown { url: url.clone(), announced: false },
            EventKind::NameResolved { name: "x.example".into(), addresses, took_us: 1, error: None },
            failed("192.0.2.7:1", challenge),
            failed("[2001:db8::7]:1", ServerFailure::Timeout { transmissions: 8, took_us: 1 }),
        ]);
        let rows = of(evidence.side(Vantage::A));
        let told: Vec<_> = rows.iter().map(|row| (row.name, row.value.as_str(), row.state)).collect();
        assert_eq!(
            told[1..],
            [
                ("first 401", "over IPv4: asks for credentials, as it should", State::Good),
                ("allocation", "over IPv6: no answer to 8 requests", State::Bad),
            ]
        );
    }

    #[test]
    fn where_a_server_is_stands_in_its_url_or_in_the_answer_of_a_resolver() {
        let name = EventKind::NameResolved {
            name: "x.example".into(),
            addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            took_us: 1,
            error: None,
        };
        let evidence = evidence(vec![name]);
        let shown = |url: &str| {
            addresses(evidence.side(Vantage::A), url).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shown("stun:192.0.2.7:1"), "192.0.2.7:1");
        assert_eq!(shown("turns:[2001:db8::2]:443?transport=tcp"), "[2001:db8::2]:443");
        assert_eq!(shown("turns:[2001:db8::2]"), "[2001:db8::2]:5349");
        assert_eq!(shown("turn:x.example:3478?transport=tcp"), "192.0.2.1:3478 [2001:db8::1]:3478");
        assert_eq!(shown("stun:other.example:3478"), "");
    }

    #[test]
    fn without_a_password_nothing_was_refused() {
        let url = "turn:192.0.2.1:3478".to_owned();
        let failed =
            |failure| EventKind::ServerFailed { server: url.clone(), local: None, method: "Allocate".into(), failure };
        let evidence = evidence(vec![
            EventKind::ServerKnown { url: url.clone(), announced: false },
            failed(ServerFailure::ErrorResponse { code: 401, reason: String::new(), expected: false }),
            failed(ServerFailure::NoCredentials),
        ]);
        let rows = of(evidence.side(Vantage::A));
        let told: Vec<_> =
            rows.iter().map(|row| (row.name, row.state, row.value.starts_with("not measured"))).collect();
        let plain = State::Plain;
        let expected =
            [("first 401", State::Good, false), ("authentication", plain, true), ("allocation", plain, true)];
        assert_eq!(told, expected);
    }

    #[test]
    fn credentials_that_were_made_here_prove_nothing_and_clocks_are_told_in_words() {
        let url = "turn:192.0.2.1:3478".to_owned();
        let (expires_s, signed, made_here) = (3600, Some(true), true);
        let evidence = evidence(vec![
            EventKind::ServerKnown { url: url.clone(), announced: false },
            EventKind::Measured(Measurement::TimedCredentials { server: url.clone(), expires_s, signed, made_here }),
            EventKind::Measured(Measurement::Clock { server: url.clone(), offset_ms: -10_800_000, precision_ms: 2 }),
        ]);
        let rows = of(evidence.side(Vantage::A));
        let told = |name: &str| rows.iter().find(|row| row.name == name).map(|row| row.value.as_str());
        assert_eq!(told("timed credentials"), Some("made here from the secret, for 60 min more by this host's clock"));
        assert_eq!(told("clock"), Some("3 h behind ours (to within 2 ms)"));
        assert_eq!(off_by(119_999), "120.0 s");
    }

    #[test]
    fn a_certificate_that_ended_today_has_ended() {
        const NOW_S: u64 = 1_000_000;
        let url = "turns:192.0.2.1:5349".to_owned();
        for (not_after_s, words, state) in [
            (NOW_S - 18_000, "ended 5 h ago", State::Warning),
            (NOW_S - 1, "ended 1 s ago", State::Warning),
            (NOW_S, "ends in 0 s", State::Warning),
            (NOW_S + 18_000, "ends in 5 h", State::Warning),
            (NOW_S + 90 * 86_400, "ends in 90 days", State::Good),
        ] {
            let shown = Measurement::Certificate {
                server: url.clone(),
                name: "192.0.2.1".into(),
                names: vec!["192.0.2.1".into()],
                not_after_s: Some(not_after_s),
                chain: 1,
                refused: None,
            };
            let known = EventKind::ServerKnown { url: url.clone(), announced: false };
            let at = Timestamp::from_micros(NOW_S * 1_000_000);
            let event = |(seq, kind)| Event { seq, at, vantage: Vantage::A, kind };
            let events: Vec<Event> = (0..).zip([known, EventKind::Measured(shown)]).map(event).collect();
            let rows = of(Evidence::of(&events).side(Vantage::A));
            let row = rows.iter().find(|row| row.name == "certificate").unwrap();
            assert!(row.value.ends_with(words), "{}", row.value);
            assert_eq!(row.state, state, "{}", row.value);
        }
    }

    #[test]
    fn times_are_told_in_units_that_one_can_picture() {
        let told = [0, 119, 120, 7199, 7200, 43_199, 172_799, 172_800].map(lasting);
        assert_eq!(told, ["0 s", "119 s", "2 min", "119 min", "2 h", "11 h", "47 h", "2 days"]);
    }
}
