//! Feeding a peer's machine and doing what it wants; the door that records.

use std::net::SocketAddr;

use whyrelay_core::engine::peer::{self, Input, Output};
use whyrelay_core::time::Timestamp;
use whyrelay_core::trace::datagram::{Classify, Passage};
use whyrelay_core::trace::event::{Datagram, Direction, EventKind, IceState, Transport};
use whyrelay_core::wire::framing::Framing;

use super::{Action, NEVER, Peer, Signal, USUAL_TTL};

impl Peer {
    pub(super) fn feed(&mut self, now: Timestamp, input: Input<'_>) {
        let Some(machine) = &mut self.machine else { return };
        machine.handle_input(now, input);
        self.drain(now);
    }

    pub(super) fn drain(&mut self, now: Timestamp) {
        while let Some(machine) = &mut self.machine {
            match machine.poll_output(now) {
                Output::Transmit(transmit) => {
                    let peer::Transmit { transport, stream, local, remote, bytes } = transmit;
                    self.door(now, Direction::Out, transport, local, remote, &bytes);
                    self.actions.push(match stream {
                        Some(id) => Action::SendOnStream { id, bytes: Framing::Stun.wrap(&bytes) },
                        None => {
                            let (ttl, is_probe) = (USUAL_TTL, false);
                            Action::Send { source: local, destination: remote, bytes, ttl, is_probe }
                        }
                    });
                }
                Output::Connect { id, local, remote, .. } => {
                    self.actions.push(Action::Connect { id, local: local.ip(), remote });
                }
                Output::Disconnect { id } => {
                    self.streams.retain(|stream| stream.id != id);
                    self.actions.push(Action::CloseStream(id));
                }
                // Every server of the lab has an address, and no candidate a name.
                Output::Resolve { .. } | Output::StateChanged(_) | Output::Closed => {}
                Output::LocalCandidate(candidate) => self.signal(Signal::Candidate(candidate.to_string())),
                Output::LocalEndOfCandidates => {
                    self.gathered = true;
                    self.signal(Signal::EndOfCandidates);
                }
                Output::Data(_) => self.data_received += 1,
                Output::Selected(_) => _ = self.first_selected.get_or_insert(now),
                Output::Event(kind) => self.record(now, kind),
                Output::Timeout(at) => {
                    self.wake_at = at;
                    break;
                }
            }
        }
        let Some(machine) = &self.machine else { return };
        if machine.agent().send_pair().is_some() {
            self.first_usable.get_or_insert(now);
        }
        match machine.agent().state() {
            IceState::Failed => _ = self.failed.get_or_insert(now),
            IceState::Closed => {}
            _ => self.failed = None,
        }
        self.advance_probes(now);
    }

    /// The door: everything that passes is recorded before anything else is done with it.
    pub(in crate::world) fn door(
        &mut self,
        now: Timestamp,
        direction: Direction,
        transport: Transport,
        local: SocketAddr,
        remote: SocketAddr,
        bytes: &[u8],
    ) {
        if Classify::of(bytes) == Classify::Count {
            let count = self.traffic.entry((direction, local, remote)).or_insert((transport, 0, 0));
            count.1 += 1;
            count.2 += bytes.len() as u64;
            return;
        }
        let integrity = self.machine.as_ref().and_then(|machine| machine.verify(local, remote, bytes));
        let interface =
            (direction == Direction::In && transport == Transport::Udp).then(|| self.interface_of(local.ip()));
        let interface = interface.as_deref();
        let passage = Passage { direction, transport, local, remote, interface, bytes, integrity };
        self.record(now, EventKind::Datagram(Datagram::sanitised(passage)));
    }

    pub(in crate::world) fn record(&mut self, now: Timestamp, kind: EventKind) {
        let event = self.recorder.record(now, kind);
        self.events.push(event);
    }

    /// What the world is to do, the next wake-up included.
    pub(in crate::world) fn finish(&mut self) -> Vec<Action> {
        let asking = self.asking.as_ref().map_or(NEVER, |asking| asking.wake_at);
        let wake_at = self.wake_at.min(asking).min(self.probes_due());
        if wake_at < NEVER {
            self.actions.push(Action::Wake(wake_at));
        }
        std::mem::take(&mut self.actions)
    }
}
