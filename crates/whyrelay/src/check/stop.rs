//! Ctrl-C: what changed something elsewhere takes it back, the rest is dropped.

use std::future::Future;

use tokio::sync::watch;

/// Whether a check is to end early. Clones are handles to the same.
#[derive(Clone, Debug)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// The handle, and what makes it stop.
    pub(crate) fn new() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    /// Whether it is asked for.
    pub(crate) fn is_asked(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is asked for.
    pub(crate) async fn asked(&mut self) {
        // Without a sender nobody will ask.
        if self.0.wait_for(|asked| *asked).await.is_err() {
            std::future::pending().await
        }
    }

    /// Runs a part until it is done or dropped.
    pub(crate) async fn unless<T>(mut self, part: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.asked() => None,
            done = part => Some(done),
        }
    }
}
