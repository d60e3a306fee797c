//! The log of a server: lines to stderr for which nothing waits.
//!
//! A server's stderr is often a pipe. When whoever reads it stands still, it fills up, and a write to it would hold up the
//! thread that carries everybody's datagrams. So a line that finds no room is lost, and the next that finds some says how
//! many were. A terminal that is stopped is like that, too, and takes lines in parts: it is written to without waiting.

use std::fmt::Arguments;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What there is room for where there is any: a page of a pipe (pipe(7), PIPE_BUF). More of a line is cut off.
const LONGEST_LINE: usize = 4096;

/// Held while writing, which nothing waits in.
static LOST: Mutex<Lost> = Mutex::new(Lost { lines: 0, is_cut: false });

/// What did not get to whoever reads the log.
#[derive(Debug, Default, PartialEq, Eq)]
struct Lost {
    /// Since the last that was written whole.
    lines: u64,
    /// Whether the last that was written at all ends in the middle.
    is_cut: bool,
}

/// Writes a line to stderr, if there is room.
pub(crate) fn say(words: Arguments<'_>) {
    write_line(format!("{words}\n").as_bytes());
}

/// For the subscriber, which writes a line at a time.
#[derive(Debug)]
pub(crate) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        write_line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_line(line: &[u8]) {
    static TERMINAL: OnceLock<Option<File>> = OnceLock::new();
    let terminal = TERMINAL.get_or_init(|| terminal_without_waiting(&io::stderr()));
    let mut lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
    match terminal {
        Some(terminal) => write_if_there_is_room(terminal, line, &mut lost),
        None => write_if_there_is_room(io::stderr(), line, &mut lost),
    }
}

/// A terminal, opened once more so that no write to it waits: one with less room than a line is writable all the same, and
/// holds up a write until it has taken all of it. Not waiting is a property of an open file, and the one that we were given
/// is also the shell's. `None`: it is no terminal, or we may not open it, as after su(1); then writes to it can wait.
fn terminal_without_waiting(of: &(impl AsFd + IsTerminal)) -> Option<File> {
    if !of.is_terminal() {
        return None;
    }
    let path = format!("/proc/self/fd/{}", of.as_fd().as_raw_fd());
    OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).ok()
}

fn write_if_there_is_room(to: impl AsFd, line: &[u8], lost: &mut Lost) {
    let mut text = Vec::new();
    if lost.is_cut {
        text.push(b'\n');
    }
    if lost.lines > 0 {
        let lines = lost.lines;
        text.extend_from_slice(format!("{lines} lines of the log are lost: nobody read it\n").as_bytes());
    }
    text.extend_from_slice(line);
    if text.len() > LONGEST_LINE {
        text.truncate(LONGEST_LINE - 1);
        text.push(b'\n');
    }
    let mut room = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
    let has_room = poll(&mut room, PollTimeout::ZERO).is_ok()
        && room[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT));
    let written = if has_room { nix::unistd::write(&to, &text).unwrap_or(0) } else { 0 };
    if written == text.len() {
        *lost = Lost::default();
    } else {
        // A terminal may take less than all of it; the rest is not worth waiting for.
        lost.lines += 1;
        lost.is_cut = if written == 0 { lost.is_cut } else { text[written - 1] != b'\n' };
    }
}

/// Something that may be due for a line of the log many times a second, and gets one in a while.
#[derive(Debug, Default)]
pub(super) struct Seldom {
    last: Option<Instant>,
    count: u64,
}

impl Seldom {
    const EVERY: Duration = Duration::from_secs(5);

    /// Notes that it happened. How often it has since the last line, when there is to be another.
    pub(super) fn note(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if self.last.is_some_and(|last| now.duration_since(last) < Self::EVERY) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.count))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_pipe_that_nobody_reads_costs_lines_and_no_time() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut lost = Lost::default();
        let mut written = 0;
        // A pipe holds 64 KiB, and no more than a page after that.
        while lost.lines == 0 {
            assert!(written < 100_000, "a full pipe has no room");
            write_if_there_is_room(&writer, &[b'x'; 1000], &mut lost);
            written += 1;
        }
        write_if_there_is_room(&writer, b"lost as well\n", &mut lost);
        assert_eq!(lost, Lost { lines: 2, is_cut: false });
        let mut taken = vec![0; (written - 1) * 1000];
        reader.read_exact(&mut taken).unwrap();
        write_if_there_is_room(&writer, b"read again\n", &mut lost);
        assert_eq!(lost, Lost::default());
        write_if_there_is_room(&writer, &[b'y'; 2 * LONGEST_LINE], &mut lost);
        drop(writer);
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        let (told, long) = rest.split_at(rest.len() - LONGEST_LINE);
        assert_eq!(told, b"2 lines of the log are lost: nobody read it\nread again\n");
        assert_eq!(long.last(), Some(&b'\n'), "cut, and still a line");
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        write_if_there_is_room(&writer, b"to nobody at all\n", &mut lost);
        assert_eq!(lost.lines, 1);
    }

    #[test]
    fn a_terminal_that_nobody_reads_costs_lines_and_no_time() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let (mut master, slave) = (File::from(pty.master), File::from(pty.slave));
        let terminal = terminal_without_waiting(&slave).unwrap();
        // It takes a part of the last that is written at all: a whole number of these is not what there is room for.
        let line = [&[b'x'; 2999][..], b"\n"].concat();
        let (sender, filled) = std::sync::mpsc::channel();
        // Not joined where it fails: it would wait as well.
        let writing = std::thread::spawn(move || {
            let (mut lost, mut written) = (Lost::default(), 0);
            while lost.lines == 0 && written < 10_000 {
                write_if_there_is_room(&terminal, &line, &mut lost);
                written += 1;
            }
            sender.send(()).unwrap();
            (terminal, lost)
        });
        filled.recv_timeout(Duration::from_secs(10)).expect("a write waits for the reader");
        let (terminal, mut lost) = writing.join().unwrap();
        assert_eq!(lost.lines, 1);
        let mut taken = vec![0; 1 << 20];
        // What a reader has taken makes room a moment later.
        let until = Instant::now() + Duration::from_secs(10);
        while lost.lines > 0 && Instant::now() < until {
            let mut there = [PollFd::new(master.as_fd(), PollFlags::POLLIN)];
            if poll(&mut there, PollTimeout::from(10_u8)).unwrap() > 0 {
                assert!(master.read(&mut taken).unwrap() > 0);
            }
            write_if_there_is_room(&terminal, b"read again\n", &mut lost);
        }
        assert_eq!(lost, Lost::default());
        let mut rest = Vec::new();
        while !rest.ends_with(b"read again\r\n") {
            let length = master.read(&mut taken).unwrap();
            rest.extend_from_slice(&taken[..length]);
        }
        let told = String::from_utf8(rest).unwrap();
        let said =
            told.lines().rev().nth(1).and_then(|line| line.strip_suffix(" lines of the log are lost: nobody read it"));
        assert!(said.is_some_and(|lines| lines.parse::<u64>().is_ok()), "on a line of its own: {told}");
        assert!(terminal_without_waiting(&File::open("/dev/null").unwrap()).is_none());
    }

    #[test]
    fn what_happens_ten_times_a_second_is_said_every_five_seconds_with_its_number() {
        let start = Instant::now();
        let mut seldom = Seldom::default();
        let said: Vec<(u64, u64)> = (0..120)
            .filter_map(|tenth| Some((tenth, seldom.note(start + Duration::from_millis(tenth * 100))?)))
            .collect();
        assert_eq!(said, [(0, 1), (50, 50), (100, 50)]);
    }
}
