//! Strangers, garbage, floods, and peers that do not keep to the rules.

use std::time::Duration;

use proptest::prelude::*;

use crate::ice::candidate::{CandidateAddress, CandidateTransport, CandidateType};
use crate::ice::{Agent, Config, Credentials, Input, LocalCandidate, Output};
use crate::random::Random;
use crate::time::Timestamp;
use crate::trace::event::{
    EventKind, FailReason, IceState, Pair, PairState, PruneReason, RefuseReason, Role, Side, StateReason,
};
use crate::wire::attribute::AttributeType;
use crate::wire::integrity::{Integrity, Key};
use crate::wire::stun::{Class, Message, MessageBuilder, Method, TransactionId};

use super::network::{A, Happening, Link, Network, START};
use super::{candidate, host};

const SECOND: Duration = Duration::from_secs(1);
const LOCAL: &str = "192.0.2.1:1000";
const REMOTE: &str = "192.0.2.2:2000";

/// One agent with one host candidate, whose peer we play ourselves.
pub(super) struct Lone {
    pub(super) network: Network,
    pub(super) peer: Credentials,
    transactions: u64,
}

impl Lone {
    pub(super) fn new(role: Role) -> Self {
        Self::with(|config| config.role = role)
    }

    pub(super) fn with(change: impl Fn(&mut Config)) -> Self {
        let mut network = Network::with(1, Link::of_delay(5), |configs| change(&mut configs[A]));
        network.blackout = true;
        network.input(A, Input::LocalCandidate(LocalCandidate::new(host(LOCAL), LOCAL.parse().unwrap())));
        Self { network, peer: Credentials::generate(&mut Random::from_number(77)), transactions: 0 }
    }

    pub(super) fn meet(mut self) -> Self {
        self.network.input(A, Input::RemoteCredentials(self.peer.clone()));
        self
    }

    pub(super) fn candidate(&mut self, address: &str) {
        self.network.input(A, Input::RemoteCandidate { candidate: host(address), resolved: None });
    }

    pub(super) fn datagram(&mut self, from: &str, bytes: &[u8]) {
        let (local, remote) = (LOCAL.parse().unwrap(), from.parse().unwrap());
        self.network.input(A, Input::Datagram { transport: CandidateTransport::Udp, local, remote, bytes });
    }

    pub(super) fn request(&mut self) -> MessageBuilder {
        self.transactions += 1;
        let mut id = [0; 12];
        id[..8].copy_from_slice(&self.transactions.to_be_bytes());
        let username = format!("{}:{}", self.network.agents[A].local_credentials().ufrag(), self.peer.ufrag());
        MessageBuilder::new(Class::Request, Method::BINDING, TransactionId(id))
            .text(AttributeType::USERNAME, &username)
            .u32(AttributeType::PRIORITY, 1_845_501_695)
    }

    pub(super) fn our_key(&self) -> Key {
        Key::short_term(self.network.agents[A].local_credentials().password())
    }

    pub(super) fn peer_key(&self) -> Key {
        Key::short_term(self.peer.password())
    }

    /// A check of the peer, as a controlled (or, to a controlled agent, controlling) peer sends it.
    pub(super) fn check(&mut self, from: &str, use_candidate: bool) {
        let role = match self.network.agents[A].role() {
            Role::Controlling => AttributeType::ICE_CONTROLLED,
            Role::Controlled => AttributeType::ICE_CONTROLLING,
        };
        let mut request = self.request().u64(role, 5);
        if use_candidate {
            request = request.attribute(AttributeType::USE_CANDIDATE, &[]);
        }
        let bytes = request.integrity(&self.our_key()).fingerprint().build();
        self.datagram(from, &bytes);
    }

    pub(super) fn sent(&self) -> usize {
        self.network.sent[A].len()
    }

    pub(super) fn last_sent(&self) -> Vec<u8> {
        self.network.sent[A].last().expect("something sent").1.bytes.clone()
    }

    /// The requests sent so far, in order.
    pub(super) fn requests(&self) -> Vec<(Timestamp, TransactionId, String)> {
        let sent = self.network.sent[A].iter().filter_map(|(at, transmit)| {
            let message = Message::decode(&transmit.bytes).unwrap();
            (message.class == Class::Request).then(|| (*at, message.transaction, transmit.remote.to_string()))
        });
        sent.collect()
    }

    /// Answers the latest request to an address.
    pub(super) fn answer(&mut self, from: &str) {
        let (_, id, _) = self.requests().into_iter().rev().find(|(_, _, to)| to == from).expect("a request");
        let bytes = MessageBuilder::new(Class::Success, Method::BINDING, id)
            .xor_address(AttributeType::XOR_MAPPED_ADDRESS, LOCAL.parse().unwrap())
            .integrity(&self.peer_key())
            .fingerprint()
            .build();
        self.datagram(from, &bytes);
    }

    pub(super) fn answer_error(&mut self, from: &str, code: u16, key: Option<Key>) {
        let (_, id, _) = self.requests().into_iter().rev().find(|(_, _, to)| to == from).expect("a request");
        let error = MessageBuilder::new(Class::Error, Method::BINDING, id).error(code, "Because");
        let bytes = match key {
            Some(key) => error.integrity(&key).fingerprint().build(),
            None => error.fingerprint().build(),
        };
        self.datagram(from, &bytes);
    }

    pub(super) fn failure(&self) -> Option<FailReason> {
        self.network.events[A].iter().rev().find_map(|(_, event)| match event {
            EventKind::PairStateChanged { reason: StateReason::Failed(reason), .. } => Some(reason.clone()),
            _ => None,
        })
    }

    pub(super) fn pair_state(&self, remote: &str) -> Option<PairState> {
        let remote = remote.parse().unwrap();
        self.network.agents[A].checklist().into_iter().find(|pair| pair.pair.remote == remote).map(|pair| pair.state)
    }
}

fn error_of(bytes: &[u8]) -> u16 {
    let message = Message::decode(bytes).unwrap();
    assert_eq!(message.class, Class::Error);
    message.error_code().unwrap().code
}

#[test]
fn a_request_without_integrity_is_answered_400_and_changes_nothing() {
    let mut lone = Lone::new(Role::Controlled).meet();
    let bytes = lone.request().fingerprint().build();
    lone.datagram(REMOTE, &bytes);
    assert_eq!(error_of(&lone.last_sent()), 400);
    assert!(!Message::decode(&lone.last_sent()).unwrap().has(AttributeType::MESSAGE_INTEGRITY));
    assert!(lone.network.agents[A].checklist().is_empty());
    assert_eq!(lone.network.agents[A].remote_candidates().count(), 0);
}

#[test]
fn a_request_for_another_or_with_a_wrong_key_is_answered_401() {
    let mut lone = Lone::new(Role::Controlled).meet();
    let bytes = lone.request().integrity(&Key::short_term("wrong")).fingerprint().build();
    lone.datagram(REMOTE, &bytes);
    assert_eq!(error_of(&lone.last_sent()), 401);
    let bytes = MessageBuilder::new(Class::Request, Method::BINDING, TransactionId([9; 12]))
        .text(AttributeType::USERNAME, "somebody:else")
        .integrity(&lone.our_key())
        .fingerprint()
        .build();
    lone.datagram(REMOTE, &bytes);
    assert_eq!(error_of(&lone.last_sent()), 401);
    assert_eq!(lone.network.agents[A].remote_candidates().count(), 0);
    assert_eq!(
        lone.network.count_events(A, |event| matches!(event, EventKind::CheckRefused { code: Some(401), .. })),
        2
    );
}

#[test]
fn unknown_required_attributes_are_answered_420_and_optional_ones_ignored() {
    let mut lone = Lone::new(Role::Controlled).meet();
    let bytes = lone.request().attribute(AttributeType(0x7ABC), &[1]).integrity(&lone.our_key()).fingerprint().build();
    lone.datagram(REMOTE, &bytes);
    let answer = lone.last_sent();
    assert_eq!(error_of(&answer), 420);
    let answer = Message::decode(&answer).unwrap();
    assert_eq!(answer.check_integrity(&lone.our_key()), Integrity::Valid);
    assert_eq!(answer.attribute(AttributeType::UNKNOWN_ATTRIBUTES).unwrap().value, [0x7A, 0xBC]);
    assert!(lone.network.agents[A].checklist().is_empty());
    let bytes =
        lone.request().attribute(AttributeType(0xC057), &[0; 4]).integrity(&lone.our_key()).fingerprint().build();
    lone.datagram(REMOTE, &bytes);
    assert_eq!(lone.pair_state(REMOTE), Some(PairState::InProgress));
}

#[test]
fn a_request_with_sha256_is_answered_with_sha256() {
    let mut lone = Lone::new(Role::Controlled).meet();
    let bytes = lone.request().integrity_sha256(&lone.our_key()).fingerprint().build();
    lone.datagram(REMOTE, &bytes);
    let answers = lone.network.sent[A].iter().map(|(_, transmit)| transmit.bytes.clone());
    let answer = answers.into_iter().find(|bytes| Message::decode(bytes).unwrap().class == Class::Success).unwrap();
    assert!(Message::decode(&answer).unwrap().has(AttributeType::MESSAGE_INTEGRITY_SHA256));
}

#[test]
fn responses_and_indications_and_garbage_are_never_answered() {
    let mut lone = Lone::new(Role::Controlled).meet();
    for class in [Class::Success, Class::Error, Class::Indication] {
        let message = MessageBuilder::new(class, Method::BINDING, TransactionId([3; 12]));
        let bytes = message.integrity(&lone.our_key()).fingerprint().build();
        lone.datagram(REMOTE, &bytes);
    }
    let other_method = MessageBuilder::new(Class::Request, Method::ALLOCATE, TransactionId([4; 12])).build();
    lone.datagram(REMOTE, &other_method);
    lone.datagram(REMOTE, b"");
    lone.datagram(REMOTE, &[0; 20]);
    lone.datagram(REMOTE, &[0xFF; 600]);
    assert_eq!(lone.sent(), 0);
}

#[test]
fn our_own_requests_that_come_back_are_ignored() {
    let mut lone = Lone::new(Role::Controlling).meet();
    lone.candidate(REMOTE);
    let request = lone.last_sent();
    let events = lone.network.events[A].len();
    lone.datagram(REMOTE, &request);
    assert_eq!((lone.sent(), lone.network.events[A].len()), (1, events));
}

#[test]
fn strangers_are_answered_a_bounded_number_of_times_and_leave_no_state() {
    let mut lone = Lone::new(Role::Controlled).meet();
    for n in 0..5000_u32 {
        let bytes = lone.request().integrity(&Key::short_term("wrong")).fingerprint().build();
        lone.datagram(&format!("198.51.{}.{}:5", n / 250, n % 250 + 1), &bytes);
    }
    assert_eq!(lone.sent(), 20);
    assert_eq!(lone.network.count_events(A, |event| matches!(event, EventKind::CheckRefused { .. })), 20);
    assert_eq!(lone.network.agents[A].remote_candidates().count(), 0);
    assert!(lone.last_sent().len() < 52, "{}", lone.last_sent().len());
}

#[test]
fn a_flood_of_authenticated_checks_makes_a_bounded_number_of_candidates() {
    let mut lone = Lone::new(Role::Controlled).meet();
    for n in 0..1000_u32 {
        lone.check(&format!("198.51.{}.{}:5", n / 250, n % 250 + 1), false);
    }
    assert_eq!(lone.network.agents[A].remote_candidates().count(), 32);
    assert_eq!(lone.network.agents[A].checklist().len(), 32);
}

#[test]
fn a_flood_before_the_description_is_answered_and_kept_up_to_a_bound() {
    let mut lone = Lone::new(Role::Controlled);
    for n in 0..1000_u32 {
        lone.check(&format!("198.51.{}.{}:5", n / 250, n % 250 + 1), false);
    }
    assert_eq!(lone.sent(), 1000);
    let lone = lone.meet();
    assert_eq!(lone.network.agents[A].remote_candidates().count(), 32);
}

#[test]
fn a_check_before_the_description_is_answered_at_once_and_used_when_it_comes() {
    let mut lone = Lone::new(Role::Controlled);
    lone.check(REMOTE, true);
    assert_eq!(Message::decode(&lone.last_sent()).unwrap().class, Class::Success);
    assert!(lone.network.agents[A].checklist().is_empty());
    let mut lone = lone.meet();
    assert_eq!(lone.pair_state(REMOTE), Some(PairState::InProgress));
    lone.answer(REMOTE);
    assert!(lone.network.agents[A].selected_pair().is_some());
}

#[test]
fn more_remote_candidates_than_the_limit_are_refused() {
    for described in [false, true] {
        let mut lone = Lone::new(Role::Controlled);
        if described {
            lone = lone.meet();
        }
        for n in 0..300 {
            lone.candidate(&format!("198.51.100.1:{}", 1000 + n));
        }
        let lone = lone.meet();
        assert_eq!(lone.network.agents[A].remote_candidates().count(), 256);
        let too_many = |event: &EventKind| {
            matches!(event, EventKind::RemoteCandidateRefused { reason: RefuseReason::TooMany { limit: 256 }, .. })
        };
        assert_eq!(lone.network.count_events(A, too_many), 44);
        assert_eq!(lone.network.agents[A].checklist().len(), 100);
    }
}

#[test]
fn a_full_checklist_keeps_some_of_each_kind() {
    let mut lone = Lone::with(|config| config.limits.pairs = 20).meet();
    let relayed = candidate(CandidateType::Relayed, CandidateTransport::Udp, "203.0.113.1:9", 65535);
    lone.network.input(A, Input::LocalCandidate(LocalCandidate::new(relayed, "203.0.113.1:9".parse().unwrap())));
    for n in 0..30 {
        lone.candidate(&format!("198.51.100.1:{}", 1000 + n));
    }
    let pairs = lone.network.agents[A].checklist();
    assert_eq!(pairs.len(), 20);
    let over_relay = pairs.iter().filter(|pair| pair.pair.local.port() == 9).count();
    assert!((8..=12).contains(&over_relay), "{over_relay}");
    let full = |event: &EventKind| {
        matches!(event, EventKind::PairPruned { reason: PruneReason::ChecklistFull { limit: 20 }, .. })
    };
    assert_eq!(lone.network.count_events(A, full), 40);
}

#[test]
fn unusable_and_foreign_candidates_are_refused_by_name() {
    let mut lone = Lone::new(Role::Controlled).meet();
    for address in ["0.0.0.0:5", "224.0.0.1:5", "255.255.255.255:5", "192.0.2.9:0", "[::]:5", "[ff02::1]:5"] {
        lone.candidate(address);
    }
    let mut second = host("192.0.2.9:7");
    second.component = 2;
    let mut old = host("192.0.2.9:8");
    old.extensions.push(("ufrag".to_owned(), "older".to_owned()));
    for candidate in [second, old, host(REMOTE), host(REMOTE), host("[2001:db8::1]:5")] {
        lone.network.input(A, Input::RemoteCandidate { candidate, resolved: None });
    }
    lone.network.input(A, Input::LocalEndOfCandidates);
    let count = |reason: &RefuseReason| {
        let same =
            |event: &EventKind| matches!(event, EventKind::RemoteCandidateRefused { reason: r, .. } if r == reason);
        lone.network.count_events(A, same)
    };
    assert_eq!(count(&RefuseReason::Unusable), 7);
    assert_eq!(count(&RefuseReason::OtherGeneration), 1);
    assert_eq!(count(&RefuseReason::Redundant), 1);
    assert_eq!(count(&RefuseReason::NoCounterpart), 1);
}

#[test]
fn an_answer_from_elsewhere_fails_the_pair() {
    let mut lone = Lone::new(Role::Controlling).meet();
    lone.candidate(REMOTE);
    let (_, id, _) = lone.requests()[0].clone();
    let bytes = MessageBuilder::new(Class::Success, Method::BINDING, id)
        .xor_address(AttributeType::XOR_MAPPED_ADDRESS, LOCAL.parse().unwrap())
        .integrity(&lone.peer_key())
        .fingerprint()
        .build();
    lone.datagram("192.0.2.66:6", &bytes);
    let (from, to) = ("192.0.2.66:6".parse().unwrap(), LOCAL.parse().unwrap());
    assert_eq!(lone.failure(), Some(FailReason::NotSymmetric { from, to }));
}

#[test]
fn a_forged_answer_changes_nothing() {
    let mut lone = Lone::new(Role::Controlling).meet();
    lone.candidate(REMOTE);
    let (_, id, _) = lone.requests()[0].clone();
    for key in [None, Some(Key::short_term("wrong"))] {
        let answer = MessageBuilder::new(Class::Success, Method::BINDING, id)
            .xor_address(AttributeType::XOR_MAPPED_ADDRESS, LOCAL.parse().unwrap());
        let bytes = match key {
            Some(key) => answer.integrity(&key).build(),
            None => answer.build(),
        };
        lone.datagram(REMOTE, &bytes);
    }
    assert_eq!(lone.pair_state(REMOTE), Some(PairState::InProgress));
    lone.answer(REMOTE);
    assert_eq!(lone.pair_state(REMOTE), Some(PairState::Succeeded));
}

#[test]
fn an_error_that_nobody_vouches_for_explains_the_timeout_and_no_more() {
    let mut lone = Lone::new(Role::Controlling).meet();
    lone.candidate(REMOTE);
    lone.answer_error(REMOTE, 401, None);
    lone.answer_error(REMOTE, 487, None);
    assert_eq!(lone.pair_state(REMOTE), Some(PairState::InProgress));
    assert_eq!(lone.network.agents[A].role(), Role::Controlling);
    lone.network.run(SECOND * 5);
    assert_eq!(lone.failure(), Some(FailReason::ErrorResponse { code: 401, reason: "Because".to_owned() }));
}

#[test]
fn an_authenticated_error_fails_the_pair_at_once() {
    let mut lone = Lone::new(Role::Controlling).meet();
    lone.candidate(REMOTE);
    let key = lone.peer_key();
    lone.answer_error(REMOTE, 420, Some(key));
    assert_eq!(lone.failure(), Some(FailReason::ErrorResponse { code: 420, reason: "Because".to_owned() }));
}

#[test]
fn being_told_487_switches_the_role_and_checks_again() {
    let mut lone = Lone::new(Role::Controlling).meet();
    lone.candidate(REMOTE);
    let key = lone.peer_key();
    lone.answer_error(REMOTE, 487, Some(key));
    assert_eq!(lone.network.agents[A].role(), Role::Controlled);
    assert_eq!(lone.requests().len(), 2);
    let last = lone.last_sent();
    assert!(Message::decode(&last).unwrap().has(AttributeType::ICE_CONTROLLED));
    assert!(lone.network.has_event(A, |event| matches!(
        event,
        EventKind::PairStateChanged { reason: StateReason::RoleConflict, to: PairState::Waiting, .. }
    )));
}

#[test]
fn a_late_487_about_a_role_given_up_since_does_not_switch_back() {
    let mut lone = Lone::with(|config| config.tie_breaker = Some(1)).meet();
    lone.candidate(REMOTE);
    // The peer is controlling too, with the larger tie-breaker: we switch.
    let bytes = lone.request().u64(AttributeType::ICE_CONTROLLING, 9).integrity(&lone.our_key()).fingerprint().build();
    let (_, first, _) = lone.requests()[0].clone();
    lone.datagram("192.0.2.3:3", &bytes);
    assert_eq!(lone.network.agents[A].role(), Role::Controlled);
    // Its 487 to our first check, sent as controlling, arrives only now.
    let late = MessageBuilder::new(Class::Error, Method::BINDING, first)
        .error(487, "Role Conflict")
        .integrity(&lone.peer_key())
        .fingerprint()
        .build();
    lone.datagram(REMOTE, &late);
    assert_eq!(lone.network.agents[A].role(), Role::Controlled);
    assert_eq!(lone.network.count_events(A, |event| matches!(event, EventKind::RoleConflict { .. })), 1);
}

#[test]
fn integrity_can_be_asked_before_a_message_is_handled() {
    let mut lone = Lone::new(Role::Controlling).meet();
    lone.candidate(REMOTE);
    let (ours, theirs) = (lone.our_key(), lone.peer_key());
    let (_, id, _) = lone.requests()[0].clone();
    let request = lone.request();
    let agent = &lone.network.agents[A];
    let verify = |bytes: Vec<u8>| agent.verify(&Message::decode(&bytes).unwrap());
    assert_eq!(verify(request.clone().integrity(&ours).build()), Some(Integrity::Valid));
    assert_eq!(verify(request.clone().integrity(&theirs).build()), Some(Integrity::Invalid));
    assert_eq!(verify(request.build()), Some(Integrity::Absent));
    let answer = |id| MessageBuilder::new(Class::Success, Method::BINDING, id);
    assert_eq!(verify(answer(id).integrity(&theirs).build()), Some(Integrity::Valid));
    assert_eq!(verify(answer(TransactionId([1; 12])).integrity(&theirs).build()), None);
    assert_eq!(verify(answer(TransactionId([1; 12])).text(AttributeType::USERNAME, "nobody:x").build()), None);
}

/// What a fuzzer or a hostile caller can do to an agent.
#[derive(Clone, Debug)]
enum Move {
    Local(u8),
    Relayed(u8),
    TcpActive(u8),
    TcpPassive(u8),
    Remote(u8),
    RemoteTcp(u8),
    Named(u8),
    Unresolved(u8),
    LocalDone,
    RemoteDone,
    Credentials(bool),
    Bytes(u8, Vec<u8>),
    Check { from: u8, role: u8, use_candidate: bool, valid: bool },
    Answer { nth: u8, from: u8, code: u8, valid: bool },
    SendFailed(u8),
    Permission(u8, bool),
    AllocationLost,
    Tcp(u8, u8),
    Hint(u16),
    Restart(bool),
    Wait(u16),
    Timeout,
    TimeLimit,
    Close,
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        3 => any::<u8>().prop_map(Move::Local),
        2 => any::<u8>().prop_map(Move::Relayed),
        1 => any::<u8>().prop_map(Move::TcpActive),
        1 => any::<u8>().prop_map(Move::TcpPassive),
        6 => any::<u8>().prop_map(Move::Remote),
        1 => any::<u8>().prop_map(Move::RemoteTcp),
        1 => any::<u8>().prop_map(Move::Named),
        1 => any::<u8>().prop_map(Move::Unresolved),
        1 => Just(Move::LocalDone),
        1 => Just(Move::RemoteDone),
        3 => any::<bool>().prop_map(Move::Credentials),
        2 => (any::<u8>(), prop::collection::vec(any::<u8>(), 0..80)).prop_map(|(from, bytes)| Move::Bytes(from, bytes)),
        10 => (any::<u8>(), 0..3_u8, any::<bool>(), any::<bool>())
            .prop_map(|(from, role, use_candidate, valid)| Move::Check { from, role, use_candidate, valid }),
        14 => (any::<u8>(), any::<u8>(), 0..8_u8, any::<bool>())
            .prop_map(|(nth, from, code, valid)| Move::Answer { nth, from, code, valid }),
        1 => any::<u8>().prop_map(Move::SendFailed),
        3 => (any::<u8>(), any::<bool>()).prop_map(|(peer, granted)| Move::Permission(peer, granted)),
        1 => Just(Move::AllocationLost),
        3 => (any::<u8>(), any::<u8>()).prop_map(|(nth, what)| Move::Tcp(nth, what)),
        1 => any::<u16>().prop_map(Move::Hint),
        1 => any::<bool>().prop_map(Move::Restart),
        12 => any::<u16>().prop_map(Move::Wait),
        2 => Just(Move::Timeout),
        1 => Just(Move::TimeLimit),
    ]
}

/// Plays moves against one agent and checks what must always hold.
fn play(role: Role, moves: &[Move]) {
    let mut random = Random::from_number(3);
    let peer = Credentials::generate(&mut random);
    let config = Config::new(role, Credentials::generate(&mut random));
    let mut agent = Agent::new(START, config, random.fork());
    let (mut now, mut sent, mut connects): (Timestamp, Vec<(TransactionId, Pair)>, Vec<Pair>) = (START, vec![], vec![]);
    let address = |n: u8| format!("192.0.2.{}:{}", n % 8 + 100, 1000 + u16::from(n / 64));
    let base = |n: u8| format!("10.0.0.{}:5000", n % 4 + 1);
    let local = |kind, transport, at: &str| LocalCandidate::new(candidate(kind, transport, at, 9), at.parse().unwrap());
    use CandidateTransport::{TcpActive, TcpPassive, Udp};
    for step in moves.iter().chain([&Move::Close, &Move::Timeout]) {
        let mut named = host("192.0.2.1:1");
        let bytes;
        let input = match step {
            Move::Local(n) => Input::LocalCandidate(local(CandidateType::Host, Udp, &base(*n))),
            Move::Relayed(n) => {
                Input::LocalCandidate(local(CandidateType::Relayed, Udp, &format!("203.0.113.{}:7", n % 2)))
            }
            Move::TcpActive(n) => Input::LocalCandidate(local(CandidateType::Host, TcpActive, &base(*n))),
            Move::TcpPassive(n) => Input::LocalCandidate(local(CandidateType::Host, TcpPassive, &base(*n))),
            Move::Remote(n) => Input::RemoteCandidate { candidate: host(&address(*n)), resolved: None },
            Move::RemoteTcp(n) => {
                let transport = if n % 2 == 0 { TcpPassive } else { TcpActive };
                let candidate = candidate(CandidateType::Host, transport, &address(*n), 9);
                Input::RemoteCandidate { candidate, resolved: None }
            }
            Move::Named(n) => {
                named.address = CandidateAddress::Name { name: format!("{}.local", n % 4), port: 7 };
                let resolved = (n % 3 == 0).then(|| address(*n).parse().unwrap());
                Input::RemoteCandidate { candidate: named, resolved }
            }
            Move::Unresolved(n) => {
                named.address = CandidateAddress::Name { name: format!("{}.local", n % 4), port: 7 };
                Input::RemoteCandidateUnresolved { candidate: named, detail: String::new() }
            }
            Move::LocalDone => Input::LocalEndOfCandidates,
            Move::RemoteDone => Input::RemoteEndOfCandidates,
            Move::Credentials(right) => {
                Input::RemoteCredentials(if *right { peer.clone() } else { Credentials::new("x", "y") })
            }
            Move::Bytes(from, garbage) => {
                let (local, remote) = (base(*from).parse().unwrap(), address(*from).parse().unwrap());
                Input::Datagram { transport: Udp, local, remote, bytes: garbage }
            }
            Move::Check { from, role, use_candidate, valid } => {
                let credentials = agent.local_credentials();
                let key = if *valid { credentials.password() } else { "no" };
                let mut message = MessageBuilder::new(Class::Request, Method::BINDING, random.transaction_id())
                    .text(AttributeType::USERNAME, &format!("{}:{}", credentials.ufrag(), peer.ufrag()));
                message = match role {
                    0 => message.u64(AttributeType::ICE_CONTROLLED, random.u64()),
                    1 => message.u64(AttributeType::ICE_CONTROLLING, random.u64()),
                    _ => message,
                };
                if *use_candidate {
                    message = message.attribute(AttributeType::USE_CANDIDATE, &[]);
                }
                bytes = message.integrity(&Key::short_term(key)).build();
                let transport = [Udp, Udp, Udp, TcpPassive][usize::from(from % 4)];
                let (local, remote) = (base(*from).parse().unwrap(), address(from / 3).parse().unwrap());
                Input::Datagram { transport, local, remote, bytes: &bytes }
            }
            Move::Answer { nth, from, code, valid } => {
                let Some((id, pair)) = sent.iter().rev().nth(usize::from(*nth) % sent.len().clamp(1, 6)).copied()
                else {
                    continue;
                };
                let message = match code {
                    0 => MessageBuilder::new(Class::Error, Method::BINDING, id).error(487, ""),
                    1 => MessageBuilder::new(Class::Error, Method::BINDING, id).error(500, ""),
                    2 => MessageBuilder::new(Class::Success, Method::BINDING, id),
                    _ => MessageBuilder::new(Class::Success, Method::BINDING, id)
                        .xor_address(AttributeType::XOR_MAPPED_ADDRESS, address(*from).parse().unwrap()),
                };
                let key = if *valid { peer.password() } else { "no" };
                bytes = message.integrity(&Key::short_term(key)).build();
                let remote = if from % 16 == 0 { address(*from).parse().unwrap() } else { pair.remote };
                Input::Datagram { transport: pair.transport, local: pair.local, remote, bytes: &bytes }
            }
            Move::SendFailed(n) => {
                let Some((_, pair)) = sent.get(usize::from(*n) % sent.len().max(1)) else { continue };
                Input::SendFailed { pair: *pair, errno: 1 }
            }
            Move::Permission(n, granted) => {
                let relayed = format!("203.0.113.{}:7", n % 2).parse().unwrap();
                let peer = address(n / 2).parse::<std::net::SocketAddr>().unwrap().ip();
                if *granted {
                    Input::PermissionGranted { relayed, peer }
                } else {
                    Input::PermissionDenied { relayed, peer, code: Some(403) }
                }
            }
            Move::AllocationLost => Input::AllocationLost { relayed: "203.0.113.1:7".parse().unwrap() },
            Move::Tcp(n, what) => {
                let Some(pair) = connects.get(usize::from(*n) % connects.len().max(1)).copied() else { continue };
                match what % 3 {
                    0 => Input::TcpConnected { pair, local: base(*n).parse().unwrap() },
                    1 => Input::TcpFailed { pair, detail: String::new() },
                    _ => Input::TcpClosed { pair, detail: String::new() },
                }
            }
            Move::Hint(millis) => Input::RoundTripHint(Duration::from_millis((*millis).into())),
            Move::Restart(local) => {
                let side = if *local { Side::Local } else { Side::Remote };
                Input::Restart { credentials: Credentials::generate(&mut random), side }
            }
            Move::Wait(millis) => {
                now += Duration::from_millis((*millis / 4).into());
                Input::Timeout
            }
            Move::Timeout => Input::Timeout,
            Move::TimeLimit => Input::TimeLimit,
            Move::Close => Input::Close,
        };
        agent.handle_input(now, input);
        let mut outputs = 0;
        let next = loop {
            outputs += 1;
            assert!(outputs < 10_000, "outputs without end");
            match agent.poll_output() {
                Output::Timeout(at) => break at,
                Output::Transmit(transmit) => {
                    let message = Message::decode(&transmit.bytes).unwrap();
                    assert!(message.is_sound());
                    let (transport, local, remote) = (transmit.transport, transmit.local, transmit.remote);
                    if message.class == Class::Request {
                        sent.push((message.transaction, Pair { transport, local, remote }));
                    }
                }
                Output::ConnectTcp { pair, .. } => connects.push(pair),
                Output::Event(_)
                | Output::NeedPermission { .. }
                | Output::SelectedPair(_)
                | Output::StateChanged(_) => {}
            }
        };
        assert!(next > now, "a timer that does not move: {:?}", agent.timers().collect::<Vec<_>>());
        assert!(agent.checklist().len() <= 100);
        assert!(agent.remote_candidates().count() <= 256 + 32);
        assert!(agent.local_candidates().count() <= 64 + 32);
        let nominated_unproved = agent.checklist().into_iter().any(|p| p.nominated && p.state != PairState::Succeeded);
        assert!(!nominated_unproved);
    }
    assert_eq!(agent.state(), IceState::Closed);
    assert_eq!(agent.poll_output(), Output::Timeout(Timestamp::from_micros(u64::MAX)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_inputs_panics_or_stops_time(
        controlling in any::<bool>(),
        moves in prop::collection::vec(moves(), 1..120),
    ) {
        play(if controlling { Role::Controlling } else { Role::Controlled }, &moves);
    }
}

#[test]
fn an_agent_left_alone_wakes_up_a_bounded_number_of_times() {
    let mut network = Network::new(1, Link::of_delay(5));
    network.host(A, LOCAL);
    network.host(super::network::B, REMOTE);
    network.start_both();
    network.run(SECOND * 600);
    // About one consent check every five seconds on each side.
    assert!(network.timeouts < 400, "{}", network.timeouts);
    network.later(A, Duration::ZERO, Happening::EndOfCandidates);
    network.run(SECOND);
    assert_eq!(network.agents[A].state(), IceState::Completed);
}
