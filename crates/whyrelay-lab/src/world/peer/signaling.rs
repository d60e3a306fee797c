//! What a peer says to the other over signaling, and hears.

use whyrelay_core::engine::peer::Input;
use whyrelay_core::host::RoutePurpose;
use whyrelay_core::ice::Credentials;
use whyrelay_core::ice::candidate::Candidate;
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::event::{EventKind, RefuseReason, Side};

use super::{Action, Peer, Signal};

impl Peer {
    pub(super) fn take_signal(&mut self, now: Timestamp, signal: Signal) {
        match signal {
            Signal::Description { offer, credentials, generation } => {
                self.described = true;
                self.probing.described(now);
                self.remote_credentials = Some(credentials.clone());
                self.describe(now, Side::Remote, offer, &credentials, generation);
                if offer {
                    self.answer(now, generation);
                }
                self.feed(now, Input::RemoteCredentials(credentials));
            }
            Signal::Candidate(line) => match line.parse::<Candidate>() {
                Ok(candidate) => {
                    if let Some(to) = candidate.address.ip() {
                        self.ask_route(now, RoutePurpose::Peer, to);
                    }
                    self.feed(now, Input::RemoteCandidate(candidate));
                }
                Err(error) => {
                    let reason = RefuseReason::Malformed { detail: error.to_string() };
                    self.record(now, EventKind::RemoteCandidateRefused { line, reason });
                }
            },
            Signal::EndOfCandidates => {
                self.remote_ended = Some(self.generation());
                self.feed(now, Input::RemoteEndOfCandidates);
            }
            Signal::Restart => self.restart_as_offerer(now),
            Signal::Probing(probing) => self.heard_about_probes(now, &probing),
        }
    }

    /// The answer goes out before the candidates that belong to it.
    fn answer(&mut self, now: Timestamp, generation: u32) {
        let Some(machine) = &self.machine else { return };
        let restarts = generation > machine.agent().generation();
        let known = machine.agent().local_credentials().clone();
        let credentials = if restarts { Credentials::generate(&mut self.random) } else { known };
        self.describe(now, Side::Local, false, &credentials, generation);
        let answer = Signal::Description { offer: false, credentials: credentials.clone(), generation };
        self.actions.push(Action::Signal(answer));
        self.may_signal = true;
        if restarts {
            self.feed(now, Input::Restart { credentials, side: Side::Remote });
        } else {
            self.actions.extend(std::mem::take(&mut self.held).into_iter().map(Action::Signal));
        }
    }

    pub(super) fn restart_as_offerer(&mut self, now: Timestamp) {
        let credentials = Credentials::generate(&mut self.random);
        let generation = self.generation() + 1;
        self.describe(now, Side::Local, true, &credentials, generation);
        let offer = Signal::Description { offer: true, credentials: credentials.clone(), generation };
        self.actions.push(Action::Signal(offer));
        self.feed(now, Input::Restart { credentials, side: Side::Local });
    }

    pub(super) fn signal(&mut self, signal: Signal) {
        if self.may_signal {
            self.actions.push(Action::Signal(signal));
        } else {
            self.held.push(signal);
        }
    }

    pub(super) fn describe(
        &mut self,
        now: Timestamp,
        side: Side,
        offer: bool,
        credentials: &Credentials,
        generation: u32,
    ) {
        let kind = EventKind::Description {
            side,
            description: if offer { "offer" } else { "answer" }.to_owned(),
            ufrag: credentials.ufrag().to_owned(),
            setup: if offer { "actpass" } else { "active" }.to_owned(),
            fingerprint: "sha-256 00".to_owned(),
            ice_options: vec!["trickle".to_owned()],
            generation,
        };
        self.record(now, kind);
    }
}
