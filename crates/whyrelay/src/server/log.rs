//! The log of a server: lines to stderr for which nothing waits.
//!
//! A server's stderr is often a pipe. When whoever reads it stands still, it fills up, and a write to it would hold up the
//! thread that carries everybody's datagrams. So a line that finds no room is lost, and the next that finds some says how
//! many were.

use std::fmt::Arguments;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What there is room for where there is any: a page of a pipe (pipe(7), PIPE_BUF). More of a line is cut off.
const LONGEST_LINE: usize = 4096;

/// Lines that were lost since the last that was written. Held while writing, which nothing waits in.
static LOST: Mutex<u64> = Mutex::new(0);

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
    let mut lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
    write_if_there_is_room(io::stderr(), line, &mut lost);
}

fn write_if_there_is_room(to: impl AsFd, line: &[u8], lost: &mut u64) {
    let mut text = Vec::new();
    if *lost > 0 {
        text.extend_from_slice(format!("{lost} lines of the log are lost: nobody read it\n").as_bytes());
    }
    text.extend_from_slice(line);
    if text.len() > LONGEST_LINE {
        text.truncate(LONGEST_LINE - 1);
        text.push(b'\n');
    }
    let mut room = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
    let has_room = poll(&mut room, PollTimeout::ZERO).is_ok()
        && room[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT));
    // A terminal may take less than all of it; the rest is not worth waiting for.
    if has_room && nix::unistd::write(&to, &text).is_ok() {
        *lost = 0;
    } else {
        *lost += 1;
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
        let mut lost = 0;
        let mut written = 0;
        // A pipe holds 64 KiB, and no more than a page after that.
        while lost == 0 {
            assert!(written < 100_000, "a full pipe has no room");
            write_if_there_is_room(&writer, &[b'x'; 1000], &mut lost);
            written += 1;
        }
        write_if_there_is_room(&writer, b"lost as well\n", &mut lost);
        assert_eq!(lost, 2);
        let mut taken = vec![0; (written - 1) * 1000];
        reader.read_exact(&mut taken).unwrap();
        write_if_there_is_room(&writer, b"read again\n", &mut lost);
        assert_eq!(lost, 0);
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
        assert_eq!(lost, 1);
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
