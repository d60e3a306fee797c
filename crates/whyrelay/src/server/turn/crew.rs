//! Which of the threads that carry datagrams are awake: the first always, the others in their order, as many as are needed.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// See the module.
pub(super) struct Crew {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// So many, from the first on.
    awake: usize,
    all: usize,
    /// Entered at the end, and not left.
    stopping: bool,
}

impl Crew {
    /// Of so many threads, of which the first is awake.
    pub(super) const fn new(all: usize) -> Self {
        Self { state: Mutex::new(State { awake: 1, all, stopping: false }), changed: Condvar::new() }
    }

    /// Waits until a thread is to be awake; false: it is to end.
    pub(super) fn is_needed(&self, at: usize) -> bool {
        let mut state = self.lock();
        while at >= state.awake && !state.stopping {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.stopping
    }

    /// Wakes the next thread, if there is one and `hand_over` succeeds.
    pub(super) fn wake_another(&self, hand_over: impl FnOnce(usize) -> bool) {
        let mut state = self.lock();
        if state.awake < state.all && hand_over(state.awake) {
            state.awake += 1;
            self.changed.notify_all();
        }
    }

    /// Whether a thread is to rest now: the last that is awake, when `take_over` succeeds.
    pub(super) fn rest(&self, at: usize, take_over: impl FnOnce() -> bool) -> bool {
        let mut state = self.lock();
        let rests = at > 0 && at + 1 == state.awake && take_over();
        if rests {
            state.awake = at;
        }
        rests
    }

    /// Ends the waiting.
    pub(super) fn stop(&self) {
        self.lock().stopping = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
