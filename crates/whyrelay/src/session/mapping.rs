//! A port mapping by the router for the length of one session (`--try mapping`).

use tokio::sync::{mpsc, watch};
use whyrelay_core::engine::peer;

use super::Trial;
use super::driver::Session;
use crate::check::{Entry, HeldMapping, Journal, default_gateway, hold_mapping};

/// A mapping that stands, and what its making and removing notes.
pub(super) struct Mapping {
    held: HeldMapping,
    entries: mpsc::Receiver<Entry>,
}

/// A mapping that is no more, or ends by itself.
pub(super) struct Released {
    removed: bool,
    entries: mpsc::Receiver<Entry>,
}

/// Has it removed, at the end.
pub(super) async fn release(mapping: Option<Mapping>) -> Option<Released> {
    let Mapping { held, entries } = mapping?;
    Some(Released { removed: held.release().await, entries })
}

impl Session {
    /// Has the router map the port of one of our sockets, and makes a candidate of it; an interrupt ends that.
    pub(super) async fn map_port(&mut self, mut interrupt: watch::Receiver<u32>) {
        if !self.tries(&Trial::Mapping) {
            return;
        }
        let socket = self.doors.keys().find_map(|local| {
            let interface = self.probing.interface_of(*local)?;
            Some((*local, default_gateway(interface)?, interface.to_owned()))
        });
        let Some((local, gateway, interface)) = socket.filter(|(local, ..)| local.is_ipv4()) else {
            return self.progress.step("no port mapping: there is no IPv4 router on this host's default route");
        };
        let (journal, entries) = Journal::new(self.clock);
        let options = self.options_on(Some(&interface));
        let interrupted = async move {
            // Without a sender nobody will interrupt.
            if interrupt.changed().await.is_err() {
                std::future::pending().await
            }
        };
        let made = hold_mapping(journal, self.random.fork(), (local, interface), gateway, options, interrupted).await;
        let mut entries = entries;
        while let Ok(entry) = entries.try_recv() {
            self.sink.note(entry);
        }
        match made {
            Ok(held) => {
                let external = held.external;
                self.progress.step(&if self.config.redact {
                    "the router maps a port".to_owned()
                } else {
                    format!("the router maps {external} to {local}")
                });
                self.mapping = Some(Mapping { held, entries });
                self.feed(peer::Input::External { base: local, external });
            }
            Err(why) => self.progress.step(&format!("no port mapping: {why}")),
        }
    }

    /// Notes what became of it at the end.
    pub(super) fn mapping_released(&mut self, released: Option<Released>) {
        let Some(Released { removed, mut entries }) = released else { return };
        while let Ok(entry) = entries.try_recv() {
            self.sink.note(entry);
        }
        self.progress.step(if removed {
            "the port mapping is removed"
        } else {
            "the router did not say that the port mapping is gone; it ends by itself within 2 minutes"
        });
    }
}
