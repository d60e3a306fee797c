//! The log of a server: lines to stderr for which nothing waits.
//!
//! A server's stderr is often a pipe. When whoever reads it stands still, it fills up, and a write to it would hold up the
//! thread that carries everybody's datagrams. So a line that finds no room is lost, and the next that finds some says how
//! many were. A terminal that is stopped is like that, too, and takes lines in parts. Somebody else may write to the same
//! pipe, socket or terminal and take the room that was there a moment ago: each write itself does not wait.

use std::fmt::Arguments;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};
use socket2::SockRef;

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
    static STDERR: OnceLock<Way<'static>> = OnceLock::new();
    let way = STDERR.get_or_init(|| {
        let stderr: &'static io::Stderr = Box::leak(Box::new(io::stderr()));
        Way::to(stderr.as_fd())
    });
    let mut lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
    write_if_there_is_room(way, line, &mut lost);
}

/// How something is written to without waiting. That is a property of an open file, and the one that we were given may be
/// the shell's or another program's as well: it stays as it is.
#[derive(Debug)]
enum Way<'a> {
    /// A terminal or a pipe, opened once more.
    OpenedAgain(File),
    /// A socket, as systemd's journal gives: each call says it.
    Socket(BorrowedFd<'a>),
    /// A file, which only a disk that hangs holds up; or a pipe or terminal that we may not open, as after su(1), which is
    /// asked for room before: who writes to it as well can take that away.
    AsGiven(BorrowedFd<'a>),
}

impl<'a> Way<'a> {
    fn to(given: BorrowedFd<'a>) -> Self {
        let kind = fstat(given).map_or(SFlag::empty(), |stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT);
        if kind == SFlag::S_IFSOCK {
            return Self::Socket(given);
        }
        if kind != SFlag::S_IFIFO && !given.is_terminal() {
            return Self::AsGiven(given);
        }
        let path = format!("/proc/self/fd/{}", given.as_raw_fd());
        let again = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
        again.map_or(Self::AsGiven(given), Self::OpenedAgain)
    }

    /// How many bytes it takes now.
    fn write(&self, bytes: &[u8]) -> usize {
        match self {
            Self::OpenedAgain(file) => nix::unistd::write(file, bytes).unwrap_or(0),
            Self::Socket(socket) => {
                let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                SockRef::from(socket).send_with_flags(bytes, flags).unwrap_or(0)
            }
            Self::AsGiven(given) => {
                let mut room = [PollFd::new(*given, PollFlags::POLLOUT)];
                let has_room = poll(&mut room, PollTimeout::ZERO).is_ok()
                    && room[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT));
                if has_room { nix::unistd::write(given, bytes).unwrap_or(0) } else { 0 }
            }
        }
    }
}

fn write_if_there_is_room(way: &Way<'_>, line: &[u8], lost: &mut Lost) {
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
    let written = way.write(&text);
    if written == text.len() {
        *lost = Lost::default();
    } else {
        // A terminal or a socket may take less than all of it; the rest is not worth waiting for.
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
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;

    /// Until it has no room. Not joined where it fails: it would wait as well.
    fn fill(way: Way<'static>, line: Vec<u8>) -> (Way<'static>, Lost, usize) {
        let (sender, filled) = std::sync::mpsc::channel();
        let writing = std::thread::spawn(move || {
            let (mut lost, mut written) = (Lost::default(), 0);
            while lost.lines == 0 && written < 10_000 {
                write_if_there_is_room(&way, &line, &mut lost);
                written += 1;
            }
            sender.send(()).unwrap();
            (way, lost, written - 1)
        });
        filled.recv_timeout(Duration::from_secs(10)).expect("a write waits for the reader");
        let (way, lost, written) = writing.join().unwrap();
        assert_eq!(lost.lines, 1, "there is always room");
        (way, lost, written)
    }

    /// A descriptor for as long as the test runs.
    fn kept(file: impl Into<OwnedFd>) -> BorrowedFd<'static> {
        let file: &'static OwnedFd = Box::leak(Box::new(file.into()));
        file.as_fd()
    }

    #[test]
    fn a_pipe_that_nobody_reads_costs_lines_and_no_time() {
        let (mut reader, writer) = io::pipe().unwrap();
        // It is the last to write to what it has opened: the pipe ends with it.
        let Way::OpenedAgain(again) = Way::to(writer.as_fd()) else { panic!("it is a pipe of ours") };
        let given = OFlag::from_bits_retain(fcntl(&writer, FcntlArg::F_GETFL).unwrap());
        assert!(!given.contains(OFlag::O_NONBLOCK), "who else writes to it may wait");
        drop(writer);
        let (way, mut lost, written) = fill(Way::OpenedAgain(again), vec![b'x'; 1000]);
        write_if_there_is_room(&way, &[b'x'; 1000], &mut lost);
        assert_eq!(lost, Lost { lines: 2, is_cut: false });
        let mut taken = vec![0; written * 1000];
        reader.read_exact(&mut taken).unwrap();
        write_if_there_is_room(&way, b"read again\n", &mut lost);
        assert_eq!(lost, Lost::default());
        write_if_there_is_room(&way, &[b'y'; 2 * LONGEST_LINE], &mut lost);
        drop(way);
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        let (told, long) = rest.split_at(rest.len() - LONGEST_LINE);
        assert_eq!(told, b"2 lines of the log are lost: nobody read it\nread again\n");
        assert_eq!(long.last(), Some(&b'\n'), "cut, and still a line");
        let (reader, writer) = io::pipe().unwrap();
        let way = Way::to(writer.as_fd());
        drop(reader);
        write_if_there_is_room(&way, b"to nobody at all\n", &mut lost);
        assert_eq!(lost.lines, 1);
    }

    #[test]
    fn a_pipe_that_we_may_not_open_is_asked_for_room() {
        let (mut reader, writer) = io::pipe().unwrap();
        let (way, mut lost, written) = fill(Way::AsGiven(kept(writer)), vec![b'x'; 1000]);
        reader.read_exact(&mut vec![0; written * 1000]).unwrap();
        write_if_there_is_room(&way, b"read again\n", &mut lost);
        assert_eq!(lost, Lost::default());
    }

    #[test]
    fn a_socket_that_nobody_reads_costs_lines_and_no_time() {
        let (mut reader, writer) = UnixStream::pair().unwrap();
        let way = Way::to(kept(writer));
        assert!(matches!(way, Way::Socket(_)), "{way:?}");
        let line = [&[b'x'; 2999][..], b"\n"].concat();
        let (way, mut lost, written) = fill(way, line);
        let mut taken = vec![0; written * 3000];
        reader.read_exact(&mut taken).unwrap();
        let cut = lost.is_cut;
        write_if_there_is_room(&way, b"read again\n", &mut lost);
        assert_eq!((lost, cut), (Lost::default(), false), "a socket of the kernel's takes what it has begun");
        let mut rest = vec![0; 55];
        reader.read_exact(&mut rest).unwrap();
        assert_eq!(rest, b"1 lines of the log are lost: nobody read it\nread again\n");
    }

    #[test]
    fn a_file_is_written_to_as_it_was_given() {
        for (path, lines) in [("/dev/null", 0), ("/dev/full", 1)] {
            let way = Way::to(kept(File::options().write(true).open(path).unwrap()));
            assert!(matches!(way, Way::AsGiven(_)), "{way:?}");
            let mut lost = Lost::default();
            write_if_there_is_room(&way, b"x\n", &mut lost);
            assert_eq!(lost.lines, lines, "{path}");
        }
    }

    #[test]
    fn a_terminal_that_nobody_reads_costs_lines_and_no_time() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let (mut master, slave) = (File::from(pty.master), File::from(pty.slave));
        let terminal = Way::to(kept(slave));
        assert!(matches!(terminal, Way::OpenedAgain(_)), "{terminal:?}");
        // It takes a part of the last that is written at all: a whole number of these is not what there is room for.
        let (terminal, mut lost, _) = fill(terminal, [&[b'x'; 2999][..], b"\n"].concat());
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
