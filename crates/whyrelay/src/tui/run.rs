//! The loop around the screen, and the threads beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill, raise};
use nix::unistd::{Pid, getpid, getppid, getsid};
use ratatui::crossterm::event::{self, Event as TerminalEvent};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use whyrelay_core::trace::event::Event;

use super::draw::{Look, draw};
use super::keyboard::Keyboard;
use super::screen::{Action, Input, Screen};
use super::terminal::{self, Guard};
use super::worker::{self, Feed, Slot};

/// Between two looks at what the worker has made, while something is expected of it.
const BUSY: Duration = Duration::from_millis(15);

/// And else.
const IDLE: Duration = Duration::from_millis(60);

/// How long a stopped process waits to be continued before it takes the terminal again: it does not run while it is
/// stopped, so this passes only where nothing stopped it.
const RESUME: Duration = Duration::from_secs(1);

/// A screen that is to end does within this, unless its terminal takes and gives nothing any more.
const CLOSING: Duration = Duration::from_secs(1);

/// What signals ask of the screen's thread.
#[derive(Debug, Default)]
struct Flags {
    /// Leave.
    close: AtomicBool,
    /// The session has ended.
    over: AtomicBool,
    /// SIGTSTP came.
    suspend: AtomicBool,
    /// SIGCONT came.
    resume: AtomicBool,
}

/// The screen of a session that runs.
#[derive(Debug)]
pub struct Live {
    feed: Option<Sender<Feed>>,
    flags: Arc<Flags>,
    screen: Option<JoinHandle<anyhow::Result<()>>>,
    done: tokio::sync::oneshot::Receiver<()>,
}

impl Live {
    /// Takes the terminal. Inside a runtime, which hears the signals. `other_command`: what to run on the other side.
    ///
    /// # Errors
    /// When stdout is no terminal, or it refuses.
    pub fn open(color: bool, other_command: String) -> anyhow::Result<Self> {
        Self::start(Screen::of_session(other_command), Look { color })
    }

    fn start(screen: Screen, look: Look) -> anyhow::Result<Self> {
        let guard = Guard::enter()?;
        let flags = Arc::new(Flags::default());
        hear_signals(&flags)?;
        let slot = Slot::default();
        let (feed, fed) = mpsc::channel();
        let into = slot.clone();
        // Ends when nobody feeds it any more.
        std::thread::Builder::new()
            .name("account".into())
            .spawn(move || worker::run(&fed, &into))
            .context("starting the thread that makes the account")?;
        let (finished, done) = tokio::sync::oneshot::channel();
        let (flags_of_screen, to_worker) = (Arc::clone(&flags), feed.clone());
        let screen = std::thread::Builder::new()
            .name("screen".into())
            .spawn(move || {
                let result = show(guard, screen, look, &flags_of_screen, &slot, &to_worker);
                // Nobody listens any more when the process is ending.
                let _ = finished.send(());
                result
            })
            .context("starting the thread that draws the screen")?;
        Ok(Self { feed: Some(feed), flags, screen: Some(screen), done })
    }

    /// Where the session's events go.
    pub fn feed(&self) -> Option<Sender<Feed>> {
        self.feed.clone()
    }

    /// The session has ended: the screen stays until the user leaves it or a signal comes.
    ///
    /// # Errors
    /// When the screen could not be drawn.
    pub async fn finish(mut self, mut interrupt: watch::Receiver<u32>, stay: bool) -> anyhow::Result<()> {
        self.feed = None;
        self.flags.over.store(true, Ordering::SeqCst);
        if !stay {
            self.flags.close.store(true, Ordering::SeqCst);
        }
        tokio::select! {
            _ = &mut self.done => {}
            () = interrupted(&mut interrupt) => {
                self.flags.close.store(true, Ordering::SeqCst);
                if tokio::time::timeout(CLOSING, &mut self.done).await.is_err() {
                    // Its thread is stuck in a terminal that is stalled or gone, and goes with the process.
                    terminal::restore();
                    return Ok(());
                }
            }
        }
        match self.screen.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            // The panic has been printed.
            Some(Err(_)) => anyhow::bail!("the screen's thread has panicked"),
            None => Ok(()),
        }
    }
}

/// The screen over a recording; comes back when the user leaves it. Inside a runtime.
///
/// # Errors
/// When stdout is no terminal, or it refuses.
pub async fn over_recording(events: Vec<Event>, color: bool, interrupt: watch::Receiver<u32>) -> anyhow::Result<()> {
    let live = Live::start(Screen::new(false), Look { color })?;
    if let Some(feed) = &live.feed {
        // The worker lives as long as the screen.
        let _ = feed.send(Feed::Anew(events));
    }
    live.finish(interrupt, true).await
}

/// Waits for a Ctrl-C or SIGTERM, one that has come already included.
async fn interrupted(interrupt: &mut watch::Receiver<u32>) {
    while *interrupt.borrow_and_update() == 0 {
        if interrupt.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

fn hear_signals(flags: &Arc<Flags>) -> anyhow::Result<()> {
    let mut stop = signal(SignalKind::from_raw(nix::libc::SIGTSTP)).context("listening for SIGTSTP")?;
    let mut go_on = signal(SignalKind::from_raw(nix::libc::SIGCONT)).context("listening for SIGCONT")?;
    let flags = Arc::clone(flags);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = stop.recv() => flags.suspend.store(true, Ordering::SeqCst),
                _ = go_on.recv() => flags.resume.store(true, Ordering::SeqCst),
            }
        }
    });
    Ok(())
}

/// The screen's thread.
fn show(
    mut guard: Guard,
    mut screen: Screen,
    look: Look,
    flags: &Flags,
    slot: &Slot,
    feed: &Sender<Feed>,
) -> anyhow::Result<()> {
    let result = show_until_left(&mut guard, &mut screen, look, flags, slot, feed);
    if result.is_err() && !screen.over {
        // The session must not go on unseen. A terminal that is gone may have sent the same signal, and two of them are
        // no impatience.
        let _ = raise(Signal::SIGHUP);
    }
    result
}

fn show_until_left(
    guard: &mut Guard,
    screen: &mut Screen,
    look: Look,
    flags: &Flags,
    slot: &Slot,
    feed: &Sender<Feed>,
) -> anyhow::Result<()> {
    let keyboard = Keyboard::open();
    let mut changed = true;
    let mut expecting = true;
    loop {
        if let Some(snapshot) = slot.take() {
            screen.handle(Input::Snapshot(snapshot));
            (changed, expecting) = (true, false);
        }
        if flags.over.load(Ordering::SeqCst) && !screen.over {
            changed = true;
            if screen.handle(Input::Over) == Action::Quit {
                return Ok(());
            }
        }
        if flags.close.load(Ordering::SeqCst) {
            return Ok(());
        }
        if flags.suspend.swap(false, Ordering::SeqCst) {
            suspend(guard, flags, false)?;
            changed = true;
        }
        // Stopped and continued by others, who may have left the terminal in any state.
        if flags.resume.swap(false, Ordering::SeqCst) {
            guard.take_again()?;
            changed = true;
        }
        if std::mem::take(&mut changed) {
            guard.draw(|frame| draw(frame, screen, look))?;
        }
        let busy = expecting || screen.live && !screen.over;
        let mut waiting = keyboard.wait(if busy { BUSY } else { IDLE }).context("waiting for a key")?;
        while waiting {
            changed = true;
            let action = match event::read().context("reading a key")? {
                TerminalEvent::Key(key) => screen.handle(Input::Key(key)),
                _ => Action::None,
            };
            match action {
                Action::None => {}
                Action::Quit => return Ok(()),
                Action::Interrupt => raise(Signal::SIGINT).context("ending the session")?,
                Action::Suspend => suspend(guard, flags, true)?,
                Action::Redraw => guard.forget()?,
                Action::Seek(to) => {
                    expecting = true;
                    // The worker lives as long as we hold this sender.
                    let _ = feed.send(Feed::Seek(to));
                }
            }
            waiting = keyboard.wait(Duration::ZERO).context("waiting for a key")?;
        }
    }
}

/// Gives the terminal to the shell until the process is continued. `all`: as the key does, the whole job.
fn suspend(guard: &mut Guard, flags: &Flags, all: bool) -> anyhow::Result<()> {
    if !somebody_would_continue() {
        return Ok(());
    }
    terminal::restore();
    flags.resume.store(false, Ordering::SeqCst);
    let whom = if all { Pid::from_raw(0) } else { getpid() };
    kill(whom, Signal::SIGSTOP).context("stopping this process")?;
    let since = Instant::now();
    while !flags.resume.swap(false, Ordering::SeqCst) && since.elapsed() < RESUME {
        std::thread::sleep(Duration::from_millis(5));
    }
    flags.suspend.store(false, Ordering::SeqCst);
    guard.take_again()
}

/// Whether there is a shell of this session that notices a stopped job. The kernel ignores Ctrl-Z where there is none,
/// and so does this: a process that nobody continues is lost.
fn somebody_would_continue() -> bool {
    let parent = getppid();
    parent.as_raw() > 1 && getsid(Some(parent)).ok() == getsid(None).ok()
}
