//! `--tui` on a pseudo-terminal: what it shows, its keys, and that the terminal comes back whatever happens.

use std::path::PathBuf;
use std::sync::OnceLock;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::pty::Pty;
use crate::support::{Process, Server, directory, file};

const ROOMY: (u16, u16) = (40, 130);

/// A recording of both sides of a relayed session over loopback, made once: it has a finding.
fn recording() -> &'static str {
    static RECORDING: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = RECORDING.get_or_init(|| {
        let directory = directory();
        let (path, text) = file(&directory, "a.jsonl");
        let server = Server::start();
        let answer = server.peer("answer", "screen", &[]);
        let offer = server.peer("offer", "screen", &["--relay-only", "--record", &text]);
        let _ = (offer.finish(), answer.finish());
        (directory, path)
    });
    path.to_str().expect("a name in UTF-8")
}

fn over_recording() -> Pty {
    let screen = Pty::start(&["report", "--tui", recording()], ROOMY, &[]);
    screen.shows("RELAYED");
    screen
}

#[test]
fn a_recording_is_shown_in_panes_and_left_with_q() {
    let mut screen = over_recording();
    let shown = screen.contents();
    for words in ["Path", "Findings", "Pairs (", "Checks of A", "Events (", "+ relay 127.0.0.1", "A->B", "? help"] {
        assert!(shown.contains(words), "{words}:\n{shown}");
    }
    screen.press("?");
    screen.shows("this help");
    screen.press("?");
    screen.shows("Pairs (");
    screen.press("q");
    assert_eq!(screen.finish().code(), Some(1), "as of the account: there is a finding");
}

#[test]
fn a_finding_is_one_key_from_its_evidence() {
    let mut screen = over_recording();
    screen.shows("[WR");
    screen.press("e");
    let shown = screen.wait_for("a cited event with the cursor", |shown| {
        shown.contains("[5 Events") && shown.lines().any(|line| line.contains("> *"))
    });
    assert!(shown.contains("* cited by WR"), "{shown}");
    // The same with Enter on the finding itself.
    screen.press("2\r");
    screen.shows("[5 Events");
}

#[test]
fn rows_are_filtered_sorted_and_zoomed() {
    let mut screen = over_recording();
    screen.press("5/allocat\r");
    screen.wait_for("only rows that fit", |shown| {
        let mut rows =
            shown.lines().skip_while(|line| !line.contains("[5 Events")).skip(1).filter(|row| row.contains('#'));
        // What it has may be in the part that is cut off.
        let fits = |row: &str| row.to_lowercase().contains("allocat") || row.trim_end().ends_with('\u{2026}');
        shown.contains("filter \"allocat\"") && rows.all(fits)
    });
    screen.press("\u{1b}");
    screen.wait_for("all events", |shown| !shown.contains("filter \""));
    screen.press("s");
    screen.shows("newest first");
    screen.press("3s");
    screen.shows("most checks first");
    screen.press("z");
    screen.wait_for("one pane", |shown| shown.contains("zoomed") && !shown.contains("5 Events"));
    screen.press("zzz");
    screen.press("/nothing has this\r");
    screen.shows("no pair fits the filter");
    // Esc alone: together with the next key it would be Alt.
    screen.press("\u{1b}");
    screen.wait_for("all pairs", |shown| !shown.contains("filter \""));
    screen.press("2s");
    screen.shows("by code");
    screen.press("s");
    screen.shows("by place");
    screen.press("/nothing has this\r");
    screen.shows("none fits the filter");
    screen.press("4s");
    screen.shows("unanswered first");
    screen.press("s");
    screen.shows("longest round trip first");
    screen.press("/nothing has this\r");
    screen.shows("no check fits the filter");
    screen.press("\u{1b}");
    screen.wait_for("all checks", |shown| !shown.contains("no check fits"));
    screen.press("/round trip\r");
    screen.wait_for("checks again", |shown| {
        shown.contains("filter \"round trip\"") && ["> A #", "> B #"].iter().any(|row| shown.contains(row))
    });
}

#[test]
fn time_is_stepped_through_and_let_go_on() {
    let mut screen = over_recording();
    screen.press("[");
    screen.shows("FROZEN at event");
    screen.press(&"{".repeat(40));
    let shown = screen.shows("FROZEN at event 1 of");
    screen.wait_for("no verdict at the first event", |shown| shown.contains("NOT DECIDED"));
    assert!(!shown.contains("DIRECT"), "{shown}");
    screen.press("]]");
    screen.shows("FROZEN at event 3 of");
    screen.shows("[3 Pairs (0 of 0)");
    screen.press(" ");
    screen.wait_for("the end again", |shown| shown.contains("RELAYED") && !shown.contains("FROZEN"));
}

#[test]
fn it_fits_a_narrow_terminal_and_says_when_it_cannot() {
    let mut screen = over_recording();
    for (rows, columns) in [(24, 80), (20, 79), (12, 40)] {
        screen.resize(rows, columns);
        let narrow = columns < 80;
        let shown = screen.wait_for("the new size", |shown| {
            shown.lines().count() == usize::from(rows)
                && shown.contains("RELAYED")
                && shown.contains("one pane") == narrow
        });
        assert!(shown.lines().all(|line| line.chars().count() <= usize::from(columns)), "{shown}");
        for (key, title) in
            [("1", "[1 Path"), ("2", "[2 Findings"), ("3", "[3 Pairs"), ("4", "[4 Checks"), ("5", "[5 Events")]
        {
            screen.press(key);
            screen.shows(title);
        }
        screen.press("?");
        let shown = screen.shows("Keys");
        assert!(shown.contains("?         this help"), "{shown}");
        // The last page, where there are several.
        screen.press("G");
        screen.shows("Ctrl-L    draw anew");
        screen.press("?");
    }
    screen.resize(10, 30);
    screen.shows("30x10 is too small: 40x12");
    screen.resize(40, 130);
    screen.wait_for("all panes again", |shown| shown.contains("2 Findings") && shown.contains("5 Events"));
}

#[test]
fn color_is_left_out_where_it_is_not_wanted() {
    let has_color = |screen: &Pty| {
        let written = String::from_utf8_lossy(&screen.written()).into_owned();
        // SGR 30 to 37, and 38 with its parameters.
        written.split("\u{1b}[").skip(1).any(|rest| {
            let Some((sequence, _)) = rest.split_once('m') else { return false };
            sequence.split(';').all(|code| code.parse::<u16>().is_ok())
                && sequence.split(';').any(|code| matches!(code.parse(), Ok(30..=38)))
        })
    };
    assert!(has_color(&over_recording()));
    let plain = Pty::start(&["report", "--tui", recording()], ROOMY, &[("NO_COLOR", "1")]);
    plain.shows("RELAYED");
    assert!(!has_color(&plain));
}

#[test]
fn a_hostile_name_reaches_the_terminal_as_text() {
    let directory = directory();
    let (path, text) = file(&directory, "evil.jsonl");
    let recorded = std::fs::read_to_string(recording()).expect("a recording");
    let evil = recorded.replace("answer-peer-1", "E\\u001b]0;pwned\\u0007\\u001b[2J\\u202eV\\u0085\\u009b31m");
    std::fs::write(&path, evil).expect("a file");
    let mut screen = Pty::start(&["report", "--tui", &text], ROOMY, &[]);
    screen.shows("RELAYED");
    screen.press("1z");
    screen.shows("pwned");
    screen.press("5/pwned\r");
    screen.shows("filter \"pwned\"");
    let written = screen.written();
    let contains = |needle: &[u8]| written.windows(needle.len()).any(|window| window == needle);
    for needle in ["\u{1b}]", "E\u{1b}", "\u{7}", "\u{202e}", "\u{85}", "\u{9b}"] {
        assert!(!contains(needle.as_bytes()), "{needle:?} was written");
    }
}

#[test]
fn without_a_terminal_it_says_so() {
    let finished = Process::start(&["report", "--tui", recording()], &[]).finish();
    assert_eq!((finished.code(), finished.stdout.as_str()), (2, ""));
    assert!(
        finished.stderr.contains("--tui needs a terminal") && finished.stderr.contains("hint:"),
        "{}",
        finished.stderr
    );
}

#[test]
fn signals_and_ctrl_c_give_the_terminal_back() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut screen = over_recording();
        screen.signal(signal);
        assert_eq!(screen.finish().code(), Some(1), "{signal}");
    }
    let mut screen = over_recording();
    screen.press("\u{3}");
    assert_eq!(screen.finish().code(), Some(1));
}

#[test]
fn a_terminal_that_hangs_up_ends_it() {
    let screen = over_recording();
    assert!(screen.hang_up().code().is_some());
}

#[test]
fn a_session_whose_terminal_hangs_up_ends_in_order() {
    let server = Server::start();
    let directory = directory();
    let (path, text) = file(&directory, "hung-up.jsonl");
    let arguments =
        ["offer", "--tui", "--signal", &server.url, "--room", "gone", "--address", "127.0.0.2", "--record", &text];
    let offer = Pty::start(&arguments, ROOMY, &[]);
    offer.shows("WAITING");
    let ended = offer.hang_up();
    assert!(ended.code().is_some(), "{ended}");
    let recorded = std::fs::read_to_string(path).expect("a recording");
    assert!(recorded.contains("\"kind\":\"recording-ended\""), "{recorded}");
}

/// The pid of the only child of a process.
fn child_of(parent: Pid) -> Pid {
    let children =
        std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).expect("Linux lists children");
    Pid::from_raw(children.split_whitespace().next().expect("a child").parse().expect("a process id"))
}

#[test]
fn stopped_it_gives_the_terminal_to_the_shell_and_takes_it_again() {
    let mut shell = Pty::run(&["bash", "--norc", "--noprofile", "-i"], ROOMY, &[("PS1", "ready> ")]);
    shell.shows("ready> ");
    let program = env!("CARGO_BIN_EXE_whyrelay");
    shell.press(&format!("{program} report --tui {}\n", recording()));
    shell.shows("RELAYED");
    for (times, by_key) in [(2, true), (3, false)] {
        if by_key {
            shell.press("\u{1a}");
        } else {
            kill(child_of(shell.pid()), Signal::SIGTSTP).expect("it can be signaled");
        }
        shell.wait_for("the shell", |shown| shown.contains("Stopped") && shown.trim_end().ends_with("ready>"));
        shell.press("echo my$((6*7))\n");
        shell.shows("my42");
        shell.press("fg\n");
        shell.wait_taken(times);
        shell.wait_for("the screen again", |shown| shown.contains("RELAYED") && shown.contains("5 Events"));
        shell.press("?");
        shell.shows("this help");
        shell.press("?");
        shell.shows("3 Pairs");
    }
    // Stopped without having been asked, and continued.
    let child = child_of(shell.pid());
    kill(child, Signal::SIGSTOP).expect("it can be signaled");
    shell.shows("Stopped");
    shell.press("fg\n");
    shell.wait_taken(4);
    shell.wait_for("the screen again", |shown| shown.contains("RELAYED") && shown.contains("5 Events"));
    shell.press("q");
    shell.wait_for("the shell", |shown| shown.trim_end().ends_with("ready>"));
    shell.press("exit\n");
    shell.finish();
}

#[test]
fn a_panic_gives_the_terminal_back() {
    let this = std::env::current_exe().expect("this program");
    let this = this.to_str().expect("a name in UTF-8");
    for helper in ["screen::helper_panics_beside_the_screen", "screen::helper_panics_while_drawing"] {
        let mut screen = Pty::run(&[this, "--exact", helper, "--ignored", "--nocapture"], ROOMY, &[]);
        screen.finish();
        let shown = screen.contents();
        assert!(shown.contains("panicked at") && shown.contains("on purpose"), "{shown}");
        let written = String::from_utf8_lossy(&screen.written()).into_owned();
        assert!(written.contains("\u{1b}[?1049h"), "it had the screen: {written:?}");
    }
}

#[test]
#[ignore = "run by a_panic_gives_the_terminal_back in a terminal of its own"]
fn helper_panics_beside_the_screen() {
    let _guard = whyrelay::tui::terminal::Guard::enter().expect("a terminal");
    let _ = std::thread::spawn(|| panic!("on purpose")).join();
}

#[test]
#[ignore = "run by a_panic_gives_the_terminal_back in a terminal of its own"]
fn helper_panics_while_drawing() {
    let mut guard = whyrelay::tui::terminal::Guard::enter().expect("a terminal");
    let _ = guard.draw(|_| panic!("on purpose"));
}

#[test]
fn a_session_that_cannot_start_says_why_on_the_terminal() {
    let mut screen = Pty::start(&["offer", "--tui", "--signal", "http://127.0.0.1:1", "--wait", "1s"], ROOMY, &[]);
    assert_eq!(screen.finish().code(), Some(2));
    let shown = screen.contents();
    assert!(shown.contains("error:"), "{shown}");
}

#[test]
fn a_live_session_is_frozen_and_stepped_through() {
    let server = Server::start();
    let arguments = ["offer", "--tui", "--stay", "--signal", &server.url, "--room", "step", "--address", "127.0.0.2"];
    let mut offer = Pty::start(&arguments, ROOMY, &[]);
    offer.shows("WAITING");
    let answer = server.peer("answer", "step", &["--stay"]);
    offer.shows("DIRECT");
    offer.press(" ");
    offer.shows("FROZEN at event");
    offer.press(&"{".repeat(60));
    offer.shows("FROZEN at event 1 of");
    offer.wait_for("no verdict at the first event", |shown| !shown.contains("DIRECT"));
    offer.press("]]");
    offer.shows("FROZEN at event 3 of");
    // And on it goes.
    offer.press(" ");
    offer.wait_for("the present", |shown| shown.contains("DIRECT") && !shown.contains("FROZEN"));
    offer.press("\u{3}");
    assert_eq!(offer.finish().code(), Some(0));
    assert_eq!(answer.finish().code(), 0);
}

#[test]
fn with_pseudonyms_no_address_is_left_on_the_screen_at_the_end() {
    let server = Server::start();
    let own = "127.83.91.202";
    let arguments = ["offer", "--tui", "--redact", "--signal", &server.url, "--room", "hidden", "--address", own];
    let mut offer = Pty::start(&arguments, (60, 160), &[]);
    offer.shows("WAITING");
    let answer = server.peer_at("127.83.91.203", "answer", "hidden", &[], &[]);
    offer.wait_for("the end", |shown| shown.contains("DIRECT") && shown.contains("session over"));
    let shown = offer.wait_for("pseudonyms", |shown| !shown.contains("127.83.91."));
    assert!(shown.contains("+ host "), "{shown}");
    offer.press("5");
    offer.press("g");
    let shown = offer.shows("[5 Events");
    assert!(!shown.contains("127.83.91."), "{shown}");
    offer.press("q");
    assert_eq!(offer.finish().code(), Some(0));
    let shown = offer.contents();
    assert!(shown.contains("DIRECT") || shown.contains("Pairs"), "{shown}");
    assert!(!shown.contains("127.83.91."), "{shown}");
    let answer = answer.finish();
    assert_eq!(answer.code(), 0, "{}", answer.stderr);
    assert!(!answer.stdout.contains("127.83.91."), "{}", answer.stdout);
}

#[test]
fn a_live_session_is_watched_to_its_end_and_its_account_printed() {
    let server = Server::start();
    let arguments = ["offer", "--tui", "--signal", &server.url, "--room", "live", "--address", "127.0.0.2"];
    let mut offer = Pty::start(&arguments, ROOMY, &[]);
    let shown = offer.shows("WAITING");
    assert!(!shown.contains("FAILED") && !shown.contains("CONNECTING"), "{shown}");
    let flat: String = shown.chars().filter(|c| !c.is_whitespace() && *c != '\u{2502}').collect();
    assert!(flat.contains(&format!("whyrelayanswer--signal{}--roomlive", server.url)), "{shown}");
    let answer = server.peer("answer", "live", &[]);
    let shown = offer.wait_for("the end", |shown| shown.contains("DIRECT") && shown.contains("session over"));
    assert!(shown.contains("+ host 127.0.0.2"), "{shown}");
    assert_eq!(answer.finish().code(), 0);
    offer.press("q");
    assert_eq!(offer.finish().code(), Some(0));
    let shown = offer.contents();
    assert!(shown.contains("Pairs, and how far each side's checks came"), "{shown}");
}

#[test]
fn ctrl_c_ends_a_live_session_as_it_does_without_a_screen() {
    let server = Server::start();
    let arguments = ["offer", "--tui", "--signal", &server.url, "--room", "stop", "--address", "127.0.0.2"];
    let mut once = Pty::start(&arguments, ROOMY, &[]);
    once.shows("WAITING");
    once.press("\u{3}");
    assert_eq!(once.finish().code(), Some(1));
    // SIGTERM does the same, and a second one ends it at once.
    let mut twice = Pty::start(&arguments, ROOMY, &[]);
    twice.shows("WAITING");
    twice.signal(Signal::SIGTERM);
    twice.signal(Signal::SIGTERM);
    assert!(matches!(twice.finish().code(), Some(1 | 130)));
}
