//! The real program on a pseudo-terminal, and what a terminal would show of it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::num::NonZero;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, tcgetpgrp, ttyname};

/// Nothing here takes longer, even on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(20);

/// A process whose terminal is ours to look at. It does not outlive its test.
pub(crate) struct Pty {
    child: Child,
    keyboard: File,
    terminal: Arc<Mutex<vt100::Parser>>,
    /// Everything that was written to it.
    written: Arc<Mutex<Vec<u8>>>,
    slave: Option<OwnedFd>,
    /// The reader is to give its handle back.
    closed: Arc<AtomicBool>,
    path: PathBuf,
    settings: String,
}

impl Pty {
    /// whyrelay on a terminal of its own of that size.
    pub(crate) fn start(arguments: &[&str], (rows, columns): (u16, u16), environment: &[(&str, &str)]) -> Self {
        let mut all = vec![env!("CARGO_BIN_EXE_whyrelay")];
        all.extend_from_slice(arguments);
        Self::run(&all, (rows, columns), environment)
    }

    /// Any program on a terminal of its own, which is its controlling terminal.
    pub(crate) fn run(command: &[&str], (rows, columns): (u16, u16), environment: &[(&str, &str)]) -> Self {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size), None).expect("a pseudo-terminal");
        // Else the program itself holds its terminal's other end.
        fcntl(&pty.master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("a flag of our own handle");
        let path = ttyname(pty.slave.as_fd()).expect("its name");
        let settings = stty(&path, &["-g"]);
        let end = || Stdio::from(pty.slave.try_clone().expect("another handle"));
        let mut child = Command::new("setsid");
        child.arg("--ctty").args(command).stdin(end()).stdout(end()).stderr(end());
        child.env("TERM", "xterm-256color").env_remove("NO_COLOR").env_remove("WHYRELAY_SIGNAL");
        child.envs(environment.iter().copied());
        let child = child.spawn().expect("setsid starts");
        // Until it is its terminal, Ctrl-C reaches nobody.
        let until = Instant::now() + LIMIT;
        while tcgetpgrp(&pty.master).is_ok_and(|group| i64::from(group.as_raw()) != i64::from(child.id())) {
            assert!(Instant::now() < until, "setsid takes no terminal");
            std::thread::sleep(Duration::from_millis(1));
        }
        let terminal = Arc::new(Mutex::new(vt100::Parser::new(size_of(rows), size_of(columns), 500)));
        let written = Arc::new(Mutex::new(Vec::new()));
        let mut reader = File::from(pty.master.try_clone().expect("another handle"));
        let (shown, raw) = (Arc::clone(&terminal), Arc::clone(&written));
        let closed = Arc::new(AtomicBool::new(false));
        let close = Arc::clone(&closed);
        std::thread::spawn(move || {
            let (mut bytes, mut held) = ([0; 4096], Vec::new());
            while !close.load(Ordering::SeqCst) {
                let mut waiting = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
                if poll(&mut waiting, PollTimeout::from(20_u8)) == Ok(0) {
                    continue;
                }
                // EIO: nobody has the terminal open any more.
                let Ok(length @ 1..) = reader.read(&mut bytes) else { break };

                held.extend_from_slice(&bytes[..length]);
                let whole: Vec<u8> = held.drain(..whole_frames(&held)).collect();
                shown.lock().expect("nobody panics with it").process(&whole);
                raw.lock().expect("nobody panics with it").extend_from_slice(&bytes[..length]);
            }
        });
        Self {
            child,
            keyboard: File::from(pty.master),
            terminal,
            written,
            slave: Some(pty.slave),
            closed,
            path,
            settings,
        }
    }

    /// Types.
    pub(crate) fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// What is on the screen.
    pub(crate) fn contents(&self) -> String {
        self.terminal.lock().expect("nobody panics with it").screen().contents()
    }

    /// Waits until the screen shows what is wanted, and answers it.
    pub(crate) fn wait_for(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let until = Instant::now() + LIMIT;
        loop {
            let contents = self.contents();
            if wanted(&contents) {
                return contents;
            }
            assert!(Instant::now() < until, "{what} did not appear; the screen was:\n{contents}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for these words on the screen.
    pub(crate) fn shows(&self, words: &str) -> String {
        self.wait_for(words, |contents| contents.contains(words))
    }

    /// Waits until the program has taken the whole screen so many times.
    pub(crate) fn wait_taken(&self, times: usize) {
        let taken = |written: &[u8]| written.windows(8).filter(|window| window == b"\x1b[?1049h").count();
        self.wait_for("the screen once more", |_| taken(&self.written()) >= times);
    }

    /// Changes the size of the terminal, as a window manager does.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        self.terminal.lock().expect("nobody panics with it").screen_mut().set_size(size_of(rows), size_of(columns));
        stty(&self.path, &["rows", &rows.to_string(), "cols", &columns.to_string()]);
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("our own child can be signaled");
    }

    /// Everything that was written to the terminal.
    pub(crate) fn written(&self) -> Vec<u8> {
        self.written.lock().expect("nobody panics with it").clone()
    }

    /// Whether the terminal is as it was before: its settings, the main screen, the cursor.
    pub(crate) fn is_restored(&self) -> Result<(), String> {
        let settings = stty(&self.path, &["-g"]);
        if settings != self.settings {
            return Err(format!("settings were {} and are {settings}", self.settings));
        }
        let terminal = self.terminal.lock().expect("nobody panics with it");
        match (terminal.screen().alternate_screen(), terminal.screen().hide_cursor()) {
            (false, false) => Ok(()),
            (alternate, hidden) => Err(format!("alternate screen: {alternate}, cursor hidden: {hidden}")),
        }
    }

    /// Waits until the terminal is as it was.
    pub(crate) fn wait_restored(&self) {
        let until = Instant::now() + LIMIT;
        while let Err(what) = self.is_restored() {
            assert!(Instant::now() < until, "not restored: {what}; the screen was:\n{}", self.contents());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for the process to end, and for the terminal to be as it was.
    pub(crate) fn finish(&mut self) -> ExitStatus {
        let until = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("our own child can be waited for") {
                break status;
            }
            assert!(Instant::now() < until, "the program did not end; the screen was:\n{}", self.contents());
            std::thread::sleep(Duration::from_millis(5));
        };
        self.wait_restored();
        self.wait_read(until);
        status
    }

    /// Waits until everything that was written to the terminal so far is known here: ours comes behind it, as a
    /// command that terminals do not know and do not show.
    fn wait_read(&self, until: Instant) {
        const LAST: &[u8] = b"\x1b]whyrelay-test\x07";
        let Some(slave) = &self.slave else { return };
        let mut slave = File::from(slave.try_clone().expect("another handle"));
        slave.write_all(LAST).expect("the terminal takes what a program writes");
        while !self.written().ends_with(LAST) {
            assert!(Instant::now() < until, "the terminal shows no more; the screen was:\n{}", self.contents());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Hangs up: the terminal is gone, as when its window is closed, and the kernel says so.
    pub(crate) fn hang_up(mut self) -> ExitStatus {
        self.slave = None;
        self.closed.store(true, Ordering::SeqCst);
        drop(std::mem::replace(&mut self.keyboard, File::open("/dev/null").expect("there is a /dev/null")));
        let until = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child can be waited for") {
                return status;
            }
            assert!(Instant::now() < until, "the program lives on without its terminal");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How much of this a terminal shows at once: it waits for the end of a frame that has begun (mode 2026).
fn whole_frames(bytes: &[u8]) -> usize {
    const BEGIN: &[u8] = b"\x1b[?2026h";
    const END: &[u8] = b"\x1b[?2026l";
    let last = |wanted: &[u8]| bytes.windows(wanted.len()).rposition(|window| window == wanted);
    match (last(BEGIN), last(END)) {
        (Some(begin), end) if end.is_none_or(|end| end < begin) => begin,
        // What is cut off may be a beginning.
        _ => (1..BEGIN.len())
            .rev()
            .find(|cut| bytes.ends_with(&BEGIN[..*cut]))
            .map_or(bytes.len(), |cut| bytes.len() - cut),
    }
}

fn size_of(number: u16) -> NonZero<u16> {
    NonZero::new(number).expect("a terminal has rows and columns")
}

fn stty(path: &std::path::Path, arguments: &[&str]) -> String {
    let output = Command::new("stty").arg("-F").arg(path).args(arguments).output().expect("stty runs");
    assert!(output.status.success(), "stty {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
