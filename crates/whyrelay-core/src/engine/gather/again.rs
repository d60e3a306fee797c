//! Allocations that were lost in the middle of a session are made again.

use std::net::SocketAddr;
use std::time::Duration;

use super::Gatherer;
use super::paths::Path;
use crate::time::Timestamp;
use crate::trace::event::Transport;

/// The wait before the second attempt; doubled for each one after it. The first is made at once: a server that says
/// that it no longer knows an allocation (437) is alive.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The longest wait: a server that is gone for good is asked once a minute.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// An allocation that held this long was a success: the waits begin anew.
const HELD: Duration = Duration::from_secs(60);

/// Whether an allocation is made again, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Again {
    /// Since when it has existed.
    since: Option<Timestamp>,
    /// Losses and failed attempts since it last held.
    losses: u32,
    /// When the next attempt is due.
    at: Option<Timestamp>,
}

impl Again {
    /// It exists.
    pub(super) fn made(&mut self, now: Timestamp) {
        *self = Self { since: Some(now), losses: self.losses, at: None };
    }

    /// It has ended: says when to try again, if it has ever existed.
    fn ended(&mut self, now: Timestamp) {
        let since = self.since.take();
        if since.is_none() && self.losses == 0 {
            return;
        }
        if since.is_some_and(|since| now.since(since) >= HELD) {
            self.losses = 0;
        }
        let wait = match self.losses {
            0 => Duration::ZERO,
            losses => (FIRST_WAIT * (1 << (losses - 1).min(6))).min(LONGEST_WAIT),
        };
        self.losses = self.losses.saturating_add(1);
        self.at = Some(now + wait);
    }

    /// Whether it was lost, and has not come back since.
    pub(super) const fn was_lost(&self) -> bool {
        self.since.is_none() && self.losses > 0
    }

    pub(super) const fn deadline(&self) -> Option<Timestamp> {
        self.at
    }
}

impl Gatherer {
    /// An allocation or an attempt at one has ended.
    pub(super) fn allocate_later(&mut self, now: Timestamp, index: usize) {
        if !self.is_closing() {
            self.allocations[index].again.ended(now);
        }
    }

    /// Makes the lost allocations again whose time has come.
    pub(super) fn allocate_lost(&mut self, now: Timestamp) {
        for index in 0..self.allocations.len() {
            if self.is_closing() || self.allocations[index].again.at.is_none_or(|at| at > now) {
                continue;
            }
            let allocation = &mut self.allocations[index];
            allocation.again.at = None;
            let (path, local) = (allocation.path, allocation.local);
            match path {
                Path::Socket(_) => self.replace_allocation(now, index, path, local),
                Path::Stream(_) => {
                    let (target, interface) = (allocation.target.clone(), allocation.interface.clone());
                    self.start_stream(now, local.ip(), interface, target, Some(index));
                }
            }
        }
    }

    /// Puts a new client in the place of one that has ended.
    pub(super) fn replace_allocation(&mut self, now: Timestamp, index: usize, path: Path, local: SocketAddr) {
        let target = self.allocations[index].target.clone();
        let transport = match path {
            Path::Socket(_) => Transport::Udp,
            Path::Stream(_) => self.servers[target.server].server.url.transport(),
        };
        let client = self.turn_client(now, &target, local, transport);
        let allocation = &mut self.allocations[index];
        (allocation.client, allocation.path, allocation.local) = (client, path, local);
        self.drain(now, index);
    }
}
