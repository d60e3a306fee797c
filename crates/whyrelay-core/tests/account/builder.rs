//! A session made by hand, event by event, as the two sides would record it.

use std::net::SocketAddr;
use std::time::Duration;

use whyrelay_core::ice::candidate::{Candidate, CandidateAddress, CandidateTransport, CandidateType};
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::datagram::Passage;
use whyrelay_core::trace::event::{
    Datagram, Direction, EVENT_VERSION, EndReason, Event, EventKind, IceState, IceStateReason, Pair, Role,
    SessionOptions, Side, Transport, Vantage,
};
use whyrelay_core::trace::recording::Recorder;
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::integrity::{Integrity, Key};
use whyrelay_core::wire::stun::{Class, MessageBuilder, Method, TransactionId};
use whyrelay_core::wire::turn::{ChannelData, ChannelNumber};

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().expect("the tests write sound addresses")
}

/// What becomes of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Answered,
    LostOnTheWay,
    Ignored,
    AnswerLost,
    Error(u16),
    SendRefused(i32),
}

/// A check of one side: on which pair it leaves, where and from where it is seen, and what becomes of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Check<'a> {
    pub(crate) by: Vantage,
    pub(crate) local: &'a str,
    pub(crate) remote: &'a str,
    pub(crate) seen_at: &'a str,
    pub(crate) seen_from: &'a str,
    pub(crate) transmissions: u32,
    pub(crate) nominate: bool,
    pub(crate) fate: Fate,
}

pub(crate) struct Session {
    /// Since the beginning, which each side's own clock shows as another time.
    elapsed: Duration,
    clocks: [Timestamp; 2],
    recorders: [Recorder; 2],
    pub(crate) events: Vec<Event>,
    next_id: u64,
}

const fn index(vantage: Vantage) -> usize {
    match vantage {
        Vantage::A => 0,
        Vantage::B => 1,
    }
}

impl Session {
    pub(crate) fn new() -> Self {
        Self::with_options(SessionOptions::default())
    }

    pub(crate) fn with_options(options: SessionOptions) -> Self {
        let mut session = Self {
            // The clocks disagree by more than a session takes: nothing may compare them.
            elapsed: Duration::ZERO,
            clocks: [Timestamp::from_micros(1_700_000_000_000_000), Timestamp::from_micros(1_600_000_000_000_000)],
            recorders: [Recorder::new(Vantage::A), Recorder::new(Vantage::B)],
            events: Vec::new(),
            next_id: 1,
        };
        for (vantage, id) in [(Vantage::A, "alice"), (Vantage::B, "bob")] {
            let (program, id) = ("whyrelay 0.1.0".to_owned(), id.to_owned());
            let started = EventKind::RecordingStarted { version: EVENT_VERSION, program, id, options: options.clone() };
            session.push(vantage, started);
            if vantage == Vantage::B {
                session.describe(vantage, Side::Remote);
            }
            session.describe(vantage, Side::Local);
        }
        session.describe(Vantage::A, Side::Remote);
        for (vantage, role) in [(Vantage::A, Role::Controlling), (Vantage::B, Role::Controlled)] {
            session.push(vantage, EventKind::IceStarted { role, pacing_ms: 20 });
        }
        session
    }

    fn describe(&mut self, vantage: Vantage, side: Side) {
        let is_offer = (vantage == Vantage::A) == (side == Side::Local);
        let (description, ufrag, setup) =
            if is_offer { ("offer", "aaaa", "actpass") } else { ("answer", "bbbb", "active") };
        self.push(
            vantage,
            EventKind::Description {
                side,
                description: description.into(),
                ufrag: ufrag.into(),
                setup: setup.into(),
                fingerprint: "sha-256 AB:CD".into(),
                ice_options: vec!["trickle".into()],
                generation: 0,
            },
        );
    }

    pub(crate) fn push(&mut self, vantage: Vantage, kind: EventKind) {
        let index = index(vantage);
        self.elapsed += Duration::from_micros(1500);
        let event = self.recorders[index].record(self.clocks[index] + self.elapsed, kind);
        self.events.push(event);
    }

    /// A candidate of one side; the other gets to know it, too.
    pub(crate) fn candidate(
        &mut self,
        vantage: Vantage,
        kind: CandidateType,
        at: &str,
        base: &str,
        server: Option<&str>,
    ) {
        let candidate = self.local_candidate(vantage, kind, at, base, server);
        self.push(vantage.other(), EventKind::RemoteCandidate { candidate, resolved: None });
    }

    /// A candidate of one side that is not signaled.
    pub(crate) fn local_candidate(
        &mut self,
        vantage: Vantage,
        kind: CandidateType,
        at: &str,
        base: &str,
        server: Option<&str>,
    ) -> Candidate {
        let candidate = Candidate {
            foundation: "1".into(),
            component: 1,
            transport: CandidateTransport::Udp,
            priority: Candidate::compute_priority(kind, 65535),
            address: CandidateAddress::Ip(address(at)),
            kind,
            related: (kind != CandidateType::Host).then(|| address(base)),
            extensions: vec![],
        };
        let (interface, server) = (Some("eth0".to_owned()), server.map(str::to_owned));
        self.push(
            vantage,
            EventKind::LocalCandidate { candidate: candidate.clone(), base: address(base), interface, server },
        );
        candidate
    }

    pub(crate) fn datagram(
        &mut self,
        vantage: Vantage,
        direction: Direction,
        local: &str,
        remote: &str,
        bytes: &[u8],
        integrity: Option<Integrity>,
    ) {
        let datagram = Datagram::sanitised(Passage {
            direction,
            transport: Transport::Udp,
            local: address(local),
            remote: address(remote),
            interface: Some("eth0"),
            bytes,
            integrity,
        });
        self.push(vantage, EventKind::Datagram(datagram));
    }

    pub(crate) fn id(&mut self) -> TransactionId {
        let mut id = [0xAB; 12];
        id[4..].copy_from_slice(&self.next_id.to_be_bytes());
        self.next_id += 1;
        TransactionId(id)
    }

    pub(crate) fn check(&mut self, check: Check<'_>) {
        let Check { by, local, remote, seen_at, seen_from, transmissions, nominate, fate } = check;
        let (other, id, key) = (by.other(), self.id(), Key::short_term("password"));
        let username = if by == Vantage::A { "bbbb:aaaa" } else { "aaaa:bbbb" };
        let role = if by == Vantage::A { AttributeType::ICE_CONTROLLING } else { AttributeType::ICE_CONTROLLED };
        let mut request = MessageBuilder::new(Class::Request, Method::BINDING, id)
            .text(AttributeType::USERNAME, username)
            .u32(AttributeType::PRIORITY, 1_862_270_975)
            .u64(role, 77);
        if nominate {
            request = request.attribute(AttributeType::USE_CANDIDATE, &[]);
        }
        let request = request.integrity(&key).fingerprint().build();
        for _ in 0..transmissions {
            self.datagram(by, Direction::Out, local, remote, &request, None);
            if let Fate::SendRefused(errno) = fate {
                let (local, remote) = (address(local), address(remote));
                let detail = "EPERM: Operation not permitted".to_owned();
                self.push(by, EventKind::SendFailed { transport: Transport::Udp, local, remote, errno, detail });
            }
        }
        if matches!(fate, Fate::LostOnTheWay | Fate::SendRefused(_)) {
            return;
        }
        self.datagram(other, Direction::In, seen_at, seen_from, &request, Some(Integrity::Valid));
        let answer = match fate {
            Fate::Answered | Fate::AnswerLost => MessageBuilder::new(Class::Success, Method::BINDING, id)
                .xor_address(AttributeType::XOR_MAPPED_ADDRESS, address(seen_from)),
            Fate::Error(code) => MessageBuilder::new(Class::Error, Method::BINDING, id).error(code, "no"),
            _ => return,
        };
        let answer = answer.integrity(&key).fingerprint().build();
        self.datagram(other, Direction::Out, seen_at, seen_from, &answer, None);
        if fate != Fate::AnswerLost {
            self.elapsed += Duration::from_millis(20);
            self.datagram(by, Direction::In, local, remote, &answer, Some(Integrity::Valid));
        }
    }

    /// A Binding request to a STUN server and its answer, if any.
    pub(crate) fn stun(&mut self, vantage: Vantage, local: &str, server: &str, mapped: Option<&str>) {
        let id = self.id();
        let request = MessageBuilder::new(Class::Request, Method::BINDING, id).build();
        for _ in 0..if mapped.is_some() { 1 } else { 4 } {
            self.datagram(vantage, Direction::Out, local, server, &request, None);
        }
        if let Some(mapped) = mapped {
            let answer = MessageBuilder::new(Class::Success, Method::BINDING, id)
                .xor_address(AttributeType::XOR_MAPPED_ADDRESS, address(mapped))
                .build();
            self.datagram(vantage, Direction::In, local, server, &answer, None);
        }
    }

    /// An allocation with a permission and a channel, as the wire shows it.
    pub(crate) fn allocate(
        &mut self,
        vantage: Vantage,
        local: &str,
        server: &str,
        relayed: &str,
        mapped: &str,
        peer: &str,
    ) {
        let (first, second) = (self.id(), self.id());
        let request = |id| MessageBuilder::new(Class::Request, Method::ALLOCATE, id);
        self.datagram(vantage, Direction::Out, local, server, &request(first).build(), None);
        let refused = MessageBuilder::new(Class::Error, Method::ALLOCATE, first)
            .error(401, "Unauthorized")
            .text(AttributeType::REALM, "whyrelay")
            .text(AttributeType::NONCE, "abc");
        self.datagram(vantage, Direction::In, local, server, &refused.build(), None);
        let again = request(second).text(AttributeType::USERNAME, "1700:alice").integrity(&Key::short_term("x"));
        self.datagram(vantage, Direction::Out, local, server, &again.build(), None);
        let success = MessageBuilder::new(Class::Success, Method::ALLOCATE, second)
            .xor_address(AttributeType::XOR_RELAYED_ADDRESS, address(relayed))
            .xor_address(AttributeType::XOR_MAPPED_ADDRESS, address(mapped))
            .u32(AttributeType::LIFETIME, 600);
        self.datagram(vantage, Direction::In, local, server, &success.build(), None);
        let bind = self.id();
        let request = MessageBuilder::new(Class::Request, Method::CHANNEL_BIND, bind)
            .attribute(AttributeType::CHANNEL_NUMBER, &ChannelNumber::FIRST.value())
            .xor_address(AttributeType::XOR_PEER_ADDRESS, address(peer))
            .text(AttributeType::USERNAME, "1700:alice");
        self.datagram(vantage, Direction::Out, local, server, &request.build(), None);
        let success = MessageBuilder::new(Class::Success, Method::CHANNEL_BIND, bind).build();
        self.datagram(vantage, Direction::In, local, server, &success, None);
    }

    /// A check over A's relay and its answer: inside of ChannelData on A's side. `peer`: B's socket and mapped address.
    pub(crate) fn relayed_check(
        &mut self,
        by: Vantage,
        socket: &str,
        server: &str,
        relayed: &str,
        peer: (&str, &str),
        nominate: bool,
    ) {
        let (id, key) = (self.id(), Key::short_term("password"));
        let username = if by == Vantage::A { "bbbb:aaaa" } else { "aaaa:bbbb" };
        let mut request = MessageBuilder::new(Class::Request, Method::BINDING, id)
            .text(AttributeType::USERNAME, username)
            .u32(AttributeType::PRIORITY, 16_777_215);
        if nominate {
            request = request.attribute(AttributeType::USE_CANDIDATE, &[]);
        }
        let request = request.integrity(&key).fingerprint().build();
        let (peer_socket, peer) = peer;
        let seen_from = if by == Vantage::A { relayed } else { peer };
        let answer = MessageBuilder::new(Class::Success, Method::BINDING, id)
            .xor_address(AttributeType::XOR_MAPPED_ADDRESS, address(seen_from))
            .integrity(&key)
            .fingerprint()
            .build();
        let inside = |bytes: &[u8]| ChannelData::encode(ChannelNumber::FIRST, bytes);
        let (here, there) =
            if by == Vantage::A { (Direction::Out, Direction::In) } else { (Direction::In, Direction::Out) };
        // A's side first where A sends, else B's; each side's own order is what counts.
        self.datagram(Vantage::A, here, socket, server, &inside(&request), None);
        self.datagram(Vantage::B, there, peer_socket, relayed, &request, Some(Integrity::Valid));
        self.datagram(Vantage::B, here, peer_socket, relayed, &answer, None);
        self.elapsed += Duration::from_millis(30);
        self.datagram(Vantage::A, there, socket, server, &inside(&answer), Some(Integrity::Valid));
    }

    pub(crate) fn select(&mut self, vantage: Vantage, local: &str, remote: &str) {
        let pair = Pair { transport: CandidateTransport::Udp, local: address(local), remote: address(remote) };
        self.push(vantage, EventKind::PairSelected { pair, replaces: None });
        let (from, to, reason) = (IceState::Checking, IceState::Completed, IceStateReason::PairSelected);
        self.push(vantage, EventKind::IceStateChanged { from, to, reason });
        self.push(vantage, EventKind::ChannelOpened { label: "whyrelay".into() });
    }

    pub(crate) fn fail(&mut self, vantage: Vantage) {
        let (from, to, reason) = (IceState::Checking, IceState::Failed, IceStateReason::NothingLeft);
        self.push(vantage, EventKind::IceStateChanged { from, to, reason });
        self.end(vantage, EndReason::Failed);
    }

    /// The agent closes; the socket is still read.
    pub(crate) fn close(&mut self, vantage: Vantage) {
        let (from, to, reason) = (IceState::Checking, IceState::Closed, IceStateReason::Closed);
        self.push(vantage, EventKind::IceStateChanged { from, to, reason });
    }

    pub(crate) fn end(&mut self, vantage: Vantage, reason: EndReason) {
        self.push(vantage, EventKind::RecordingEnded { reason });
    }

    /// Time passes.
    pub(crate) fn wait(&mut self, time: Duration) {
        self.elapsed += time;
    }

    /// A check of the other side that came by this side's relay, with its answer.
    pub(crate) fn received_over_relay(&mut self, vantage: Vantage, socket: &str, server: &str) {
        let (id, key) = (self.id(), Key::short_term("password"));
        let username = if vantage == Vantage::A { "aaaa:bbbb" } else { "bbbb:aaaa" };
        let request = MessageBuilder::new(Class::Request, Method::BINDING, id)
            .text(AttributeType::USERNAME, username)
            .u32(AttributeType::PRIORITY, 16_777_215);
        let request = request.integrity(&key).fingerprint().build();
        let inside = ChannelData::encode(ChannelNumber::FIRST, &request);
        self.datagram(vantage, Direction::In, socket, server, &inside, Some(Integrity::Valid));
    }

    pub(crate) fn of(&self, vantage: Vantage) -> Vec<Event> {
        self.events.iter().filter(|event| event.vantage == vantage).cloned().collect()
    }
}

impl Session {
    /// A host candidate on another interface than `eth0`.
    pub(crate) fn candidate_on(&mut self, vantage: Vantage, at: &str, interface: &str) {
        let candidate = Candidate {
            foundation: "2".into(),
            component: 1,
            transport: CandidateTransport::Udp,
            priority: Candidate::compute_priority(CandidateType::Host, 65534),
            address: CandidateAddress::Ip(address(at)),
            kind: CandidateType::Host,
            related: None,
            extensions: vec![],
        };
        let (base, interface) = (address(at), Some(interface.to_owned()));
        self.push(vantage, EventKind::LocalCandidate { candidate, base, interface, server: None });
    }

    /// A check of A whose answer comes from another address than it was sent to.
    pub(crate) fn answer_astray(&mut self, local: &str, remote: &str, from: &str) {
        let (id, key) = (self.id(), Key::short_term("password"));
        let request = MessageBuilder::new(Class::Request, Method::BINDING, id)
            .text(AttributeType::USERNAME, "bbbb:aaaa")
            .u32(AttributeType::PRIORITY, 1_862_270_975)
            .integrity(&key)
            .fingerprint()
            .build();
        let answer = MessageBuilder::new(Class::Success, Method::BINDING, id)
            .xor_address(AttributeType::XOR_MAPPED_ADDRESS, address(crate::report::A_MAPPED))
            .integrity(&key)
            .fingerprint()
            .build();
        self.datagram(Vantage::A, Direction::Out, local, remote, &request, None);
        self.datagram(Vantage::A, Direction::In, local, from, &answer, Some(Integrity::Valid));
    }
}

impl Session {
    /// An allocation over TLS, as the wire shows it.
    pub(crate) fn allocate_over_tls(&mut self, vantage: Vantage, local: &str, server: &str, relayed: &str) {
        let id = self.id();
        let request = MessageBuilder::new(Class::Request, Method::ALLOCATE, id).build();
        let answer = MessageBuilder::new(Class::Success, Method::ALLOCATE, id)
            .xor_address(AttributeType::XOR_RELAYED_ADDRESS, address(relayed))
            .build();
        for (direction, data) in [(Direction::Out, request), (Direction::In, answer)] {
            let datagram = Datagram {
                direction,
                transport: Transport::Tls,
                local: address(local),
                remote: address(server),
                interface: None,
                length: 20,
                data,
                integrity: None,
            };
            self.push(vantage, EventKind::Datagram(datagram));
        }
    }

    /// A check of one side that is answered when the agent has given up already.
    pub(crate) fn slow_check(&mut self, by: Vantage, takes: Duration) {
        use crate::report::{A, A_MAPPED, B_MAPPED};
        let (id, key) = (self.id(), Key::short_term("password"));
        let request = MessageBuilder::new(Class::Request, Method::BINDING, id)
            .text(AttributeType::USERNAME, "bbbb:aaaa")
            .u32(AttributeType::PRIORITY, 1_862_270_975)
            .integrity(&key)
            .build();
        let answer = MessageBuilder::new(Class::Success, Method::BINDING, id)
            .xor_address(AttributeType::XOR_MAPPED_ADDRESS, address(A_MAPPED))
            .integrity(&key)
            .build();
        self.datagram(by, Direction::Out, A, B_MAPPED, &request, None);
        let (from, to, reason) = (IceState::Checking, IceState::Failed, IceStateReason::NothingLeft);
        self.push(by, EventKind::IceStateChanged { from, to, reason });
        self.elapsed += takes;
        self.datagram(by, Direction::In, A, B_MAPPED, &answer, Some(Integrity::Valid));
    }
}
