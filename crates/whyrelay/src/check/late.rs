//! What comes when nobody waits for it any more. A part that gives a request up leaves its sockets to the check, which
//! keeps them until its end: an answer that comes then shows that the network is slow, and that nothing is closed or dead.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// Groups of sockets that are kept open.
const MOST: usize = 256;

/// See the module. Clones are handles to the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Late(Arc<Shared>);

/// A handle that keeps nothing alive.
#[derive(Clone, Debug)]
pub(super) struct WeakLate(Weak<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    came: Notify,
}

#[derive(Debug, Default)]
struct State {
    open: Vec<AbortHandle>,
    /// Sockets with the servers that did not answer them.
    silent: BTreeSet<(SocketAddr, SocketAddr)>,
}

impl Late {
    pub(super) fn downgrade(&self) -> WeakLate {
        WeakLate(Arc::downgrade(&self.0))
    }

    /// Lets `reading` go on until [`Self::close`].
    pub(super) fn keep(&self, reading: impl Future<Output = ()> + Send + 'static) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Without a runtime everything ends anyway.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if state.open.len() < MOST {
            state.open.push(runtime.spawn(reading).abort_handle());
        }
    }

    /// A server was silent to a socket.
    pub(super) fn expect(&self, local: SocketAddr, server: SocketAddr) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.silent.len() < MOST {
            state.silent.insert((local, server));
        }
    }

    /// Waits until all who were silent have answered after all, and no longer than this.
    pub(super) async fn wait(&self, until: Instant) {
        let all_came = async {
            loop {
                let came = self.0.came.notified();
                if self.0.state.lock().unwrap_or_else(PoisonError::into_inner).silent.is_empty() {
                    return;
                }
                came.await;
            }
        };
        let _ = tokio::time::timeout_at(until.into(), all_came).await;
    }

    /// Closes the sockets.
    pub(super) fn close(&self) {
        let open = std::mem::take(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner).open);
        open.iter().for_each(AbortHandle::abort);
    }
}

impl WeakLate {
    /// Something came to a socket.
    pub(super) fn came(&self, local: SocketAddr, from: SocketAddr) {
        let Some(shared) = self.0.upgrade() else { return };
        shared.state.lock().unwrap_or_else(PoisonError::into_inner).silent.remove(&(local, from));
        shared.came.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use whyrelay_core::random::Random;
    use whyrelay_core::trace::measurement::Measurement;

    use super::super::journal::{Entry, Journal};
    use super::super::question::Question;
    use super::*;
    use crate::io::clock::Clock;
    use crate::io::udp::UdpOptions;
    use whyrelay_core::trace::event::{Direction, Transport};

    /// A server that answers when the question was given up, or not at all; the time that is waited for it, and what came.
    async fn given_up(answers: bool) -> (Duration, usize) {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let remote = server.local_addr().unwrap();
        let (journal, mut entries) = Journal::new(Clock::start());
        let journal = journal.within(Duration::from_secs(3));
        let any = ("127.0.0.1:0".parse().unwrap(), None);
        let question =
            Question::open(&journal, &mut Random::from_number(1), any, remote, UdpOptions::default()).unwrap();
        question.send().unwrap();
        let (transport, rtt_us, detail, unannounced) = (Transport::Udp, None, None, false);
        let local = Some(question.local);
        journal.measured(Measurement::Reach { transport, local, remote, rtt_us, detail, unannounced });
        let client = question.local;
        drop(question);
        let began = Instant::now();
        if answers {
            server.send_to(b"at last", client).unwrap();
        }
        journal.wait_for_late(began + Duration::from_millis(300)).await;
        let waited = began.elapsed();
        journal.close();
        let arrivals = std::iter::from_fn(|| entries.try_recv().ok())
            .filter(|entry| matches!(entry, Entry::Passage(passed) if passed.direction == Direction::In));
        (waited, arrivals.count())
    }

    #[tokio::test]
    async fn what_comes_to_a_socket_that_was_given_up_is_noted_and_waited_for() {
        let (waited, came) = given_up(true).await;
        assert!(came == 1 && waited < Duration::from_millis(300), "{came} after {waited:?}");
        let (waited, came) = given_up(false).await;
        assert!(came == 0 && waited >= Duration::from_millis(300), "{came} after {waited:?}");
    }
}
