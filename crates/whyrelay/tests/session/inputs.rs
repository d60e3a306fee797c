//! Bad input: a clear line, the way out, the right exit status. Secrets stay secret.

use whyrelay_core::engine::stun_server::answer;
use whyrelay_core::wire::stun::Message;

use crate::support::{Process, Server, directory, file};

#[test]
fn what_cannot_work_is_said_in_one_line_with_the_way_out() {
    let server = Server::start();
    let url = server.url.as_str();
    let here = ["--address", "127.0.0.2"];
    let recorded = concat!(env!("CARGO_MANIFEST_DIR"), "/../whyrelay-core/tests/recordings/failed.jsonl");
    let table: [(&[&str], &str, &str); 18] = [
        (&["check", "--signal", "htp:/x"], "is broken", ""),
        (
            &["check", "--stun", "stun:127.0.0.1", "--interface", "nowhere0"],
            "--interface nowhere0",
            "this host has no interface of that name; it has ",
        ),
        (&["demo", "-o", "/nonexistent/r"], "creating the account", "/nonexistent/r"),
        (&["report", "/dev/zero"], "/dev/zero: it is longer than", "256 MB"),
        (&["check", "--output", "/nonexistent/r"], "creating the account", "/nonexistent/r"),
        (&["offer", "--signal", "htp:/x"], "is broken", "hint: give it as http://HOST:PORT"),
        (&["offer", "--signal", "http://127.0.0.1:1"], "cannot reach the signaling server", "hint: check that"),
        (&["offer", "--signal", url, "--stun", "stun://x"], "has slashes", "--stun"),
        (&["offer", "--signal", url, "--stun", "turn:x"], "a stun: or stuns: URL belongs here", "stun.example.org"),
        (&["offer", "--signal", url, "--turn", "turn:127.0.0.1"], "needs --turn-user", "--turn-user"),
        (&["offer", "--signal", url, "--turn", "turn:h", "--turn-user", "u"], "no password", "hint: set TURN_PASSWORD"),
        (&["offer", "--signal", url, "--id", "x", "--peer", "x"], "are both", "hint: give the two sides"),
        (&["offer", "--signal", url, "--record", "/nonexistent/r"], "creating the recording", "/nonexistent/r"),
        (&["report", "/nonexistent"], "reading the recording", "No such file"),
        (&["report", recorded, recorded, recorded], "3 files are given", "hint: run `whyrelay report` once for each"),
        (&["explain"], "takes a finding's code or name", "hint: `whyrelay explain --list` names them all"),
        (
            &["offer", "--signal", url, "--interface", "nosuch0"],
            "no interface of that name; it has",
            "check --interface",
        ),
        (&["offer", "--signal", url, "--try", "exclude=nosuch0"], "--try exclude=nosuch0: this host has no", " lo"),
    ];
    for (arguments, what, way_out) in table {
        let mut arguments = arguments.to_vec();
        if arguments[0] == "offer" {
            arguments.extend(here);
        }
        let ended = Process::start(&arguments, &[]).finish();
        assert_eq!(ended.code(), 2, "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(what), "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(way_out), "{arguments:?}: {}", ended.stderr);
        assert!(ended.stdout.is_empty(), "{arguments:?}: {}", ended.stdout);
    }
}

#[test]
fn an_interface_that_cannot_be_left_out_is_named_at_once_and_in_the_account() {
    let server = Server::start();
    let b = server.peer("answer", "x", &[]);
    let a = server.peer("offer", "x", &["--exclude-interface", "nosuch0"]).finish();
    b.finish();
    assert_eq!(a.code(), 0, "{}", a.stderr);
    let warning = "warning: --exclude-interface nosuch0: this host has no interface of that name; it has ";
    assert!(a.stderr.contains(warning), "{}", a.stderr);
    let flat = a.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains("without nosuch0 on A (--exclude-interface): A has no interface of that name"), "{flat}");
}

#[test]
fn a_full_disk_is_told_when_it_happens_and_at_the_end() {
    let server = Server::start();
    let a = server.peer("offer", "f", &["--record", "/dev/full"]);
    // Before anybody came.
    a.wait_for("warning: the recording /dev/full cannot be written any more and ends early: No space left");
    let b = server.peer("answer", "f", &[]);
    let (a, b) = (a.finish(), b.finish());
    assert_eq!((a.code(), b.code()), (2, 0), "{}", a.stderr);
    assert!(a.stdout.starts_with("DIRECT"), "{}", a.stdout);
    let last = a.stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("error: the recording /dev/full cannot be written"), "{}", a.stderr);
}

#[test]
fn findings_are_listed_by_their_codes() {
    let list = Process::start(&["explain", "--list"], &[]).finish().stdout;
    let codes: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(codes.is_sorted() && codes.len() > 70, "{codes:?}");
}

#[test]
fn a_directory_that_is_made_for_recordings_is_said() {
    let directory = directory();
    let into = directory.path().join("new").display().to_string();
    let arguments = ["lab", "run", "two-homes", "--record", &into];
    let first = Process::start(&arguments, &[]).finish();
    assert!(first.stderr.contains(&format!("made the directory {into}")), "{}", first.stderr);
    let second = Process::start(&arguments, &[]).finish();
    assert!(!second.stderr.contains("made the directory"), "{}", second.stderr);
}

#[test]
fn a_server_that_is_no_signaling_server_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for stream in listener.incoming().take(4).flatten() {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
        }
    });
    let ended = Process::start(&["offer", "--signal", &url, "--address", "127.0.0.2"], &[]).finish();
    assert_eq!(ended.code(), 2, "{}", ended.stderr);
    assert!(ended.stderr.contains("no signaling server"), "{}", ended.stderr);
}

#[test]
fn an_id_that_is_taken_is_named() {
    let server = Server::start();
    let first = server.peer("answer", "t", &[]);
    first.wait_for("signaling: connected");
    let second = server.peer("answer", "t", &[]).finish();
    assert_eq!(second.code(), 2, "{}", second.stderr);
    assert!(second.stderr.contains("already taken"), "{}", second.stderr);
    assert!(second.stderr.contains("hint: choose another --id"), "{}", second.stderr);
}

#[test]
fn a_recording_that_is_none_is_refused_by_name() {
    let directory = directory();
    let (path, name) = file(&directory, "not-a-recording");
    std::fs::write(path, "hello\nworld\n").unwrap();
    let ended = Process::start(&["report", &name], &[]).finish();
    assert_eq!(ended.code(), 2);
    assert!(ended.stderr.contains("not a recording"), "{}", ended.stderr);
}

#[test]
fn a_recording_without_a_readable_event_is_an_error_and_no_account() {
    let directory = directory();
    let unknown = "{\"seq\":0,\"at\":1,\"vantage\":\"a\",\"kind\":\"moon-phase\"}\n";
    for (content, words) in [("", "is empty"), ("\n\n", "is empty"), (unknown, "none of the 1 events")] {
        let (path, name) = file(&directory, "recording");
        std::fs::write(path, content).unwrap();
        let ended = Process::start(&["report", &name], &[]).finish();
        assert_eq!((ended.code(), ended.stdout.as_str()), (2, ""), "{content:?}");
        assert!(ended.stderr.contains(words) && ended.stderr.contains(&name), "{content:?}: {}", ended.stderr);
    }
}

#[test]
fn a_recording_comes_from_stdin_as_well() {
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/../whyrelay-core/tests/recordings/failed.jsonl");
    let of_file = Process::start(&["report", kept], &[]).finish();
    let of_stdin = Process::start_reading(std::fs::File::open(kept).unwrap(), &["report", "-"]).finish();
    assert_eq!((of_stdin.code(), &of_stdin.stdout), (of_file.code(), &of_file.stdout), "{}", of_stdin.stderr);
    assert!(of_file.stdout.contains("FAILED"), "{}", of_file.stdout);
}

#[test]
fn what_could_not_be_read_is_said_in_the_account_itself() {
    let directory = directory();
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/../whyrelay-core/tests/recordings/failed.jsonl");
    let text = std::fs::read_to_string(kept).unwrap();
    let garbled = text.replace("\"10.", "\"10..");
    assert_ne!(text, garbled);
    let (path, name) = file(&directory, "garbled");
    std::fs::write(path, garbled).unwrap();
    let ended = Process::start(&["report", &name], &[]).finish();
    assert_eq!(ended.code(), 1, "{}", ended.stderr);
    let flat = ended.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(flat.contains("events of the recording could not be read: this account is incomplete."), "{flat}");
    assert!(flat.contains("events of the recording show: they could not be read"), "{flat}");
}

#[test]
fn recordings_of_two_sessions_are_not_put_together() {
    let directory = directory();
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/../whyrelay-core/tests/recordings/");
    let (path, other) = file(&directory, "other.jsonl");
    let text = std::fs::read_to_string(format!("{kept}failed.jsonl")).unwrap();
    std::fs::write(path, text.replace("\"at\":1", "\"at\":2")).unwrap();
    let ended = Process::start(&["report", &format!("{kept}failed.jsonl"), &other], &[]).finish();
    assert_eq!(ended.code(), 2, "{}", ended.stderr);
    assert!(ended.stderr.contains("they are not of one session: both have an event 0 of side A"), "{}", ended.stderr);
    assert!(ended.stderr.contains("hint: name the two sides of one session"), "{}", ended.stderr);
}

#[test]
fn commands_of_a_redacted_account_are_said_to_hold_pseudonyms() {
    let directory = directory();
    let into = directory.path().display().to_string();
    let ended = Process::start(&["lab", "run", "vpn-marked-socket", "--record", &into], &[]).finish();
    assert_eq!(ended.code(), 0, "{}", ended.stderr);
    let files = ["a", "b"].map(|side| directory.path().join(format!("vpn-marked-socket-{side}.jsonl")));
    let files: Vec<&std::path::Path> = files.iter().map(AsRef::as_ref).collect();
    let plain = crate::support::report(&files, &[]).stdout;
    assert!(plain.contains("$ ip route get") && !plain.contains("pseudonyms"), "{plain}");
    let redacted = crate::support::report(&files, &["--redact"]).stdout;
    assert_eq!(redacted.matches("in these commands are pseudonyms").count(), 1, "{redacted}");
}

#[test]
fn a_check_without_a_server_is_not_called_healthy_and_says_what_became_of_as() {
    let ended = Process::start(&["check", "--as", "port=45123", "--interface", "lo"], &[]).finish();
    assert!(!ended.stdout.contains("HEALTHY"), "{}", ended.stdout);
    assert!(ended.stdout.starts_with("NOT MEASURED\n"), "{}", ended.stdout);
    assert_eq!(ended.code(), 2, "nothing was measured: {}", ended.stdout);
    assert!(ended.stdout.contains("As another program (--as)"), "{}", ended.stdout);
    assert!(ended.stdout.contains("not measured: no server was asked over UDP"), "{}", ended.stdout);
    assert!(!ended.stdout.contains("nothing is recorded about routes"), "{}", ended.stdout);
}

#[test]
fn a_check_that_measured_nothing_has_the_exit_status_of_an_offer_that_could_not_look() {
    let ended = Process::start(&["check", "--signal", "http://127.0.0.1:1", "--interface", "lo"], &[]).finish();
    assert_eq!(ended.code(), 2, "{}", ended.stdout);
    assert!(ended.stdout.contains("WR701"), "{}", ended.stdout);
    let server = Server::start();
    let measured = Process::start(&["check", "--signal", &server.url, "--interface", "lo"], &[]).finish();
    assert!(measured.code() < 2, "{}\n{}", measured.stdout, measured.stderr);
}

#[test]
fn the_account_of_a_check_goes_to_a_file_where_one_is_named() {
    let directory = directory();
    let (path, name) = file(&directory, "check.json");
    let ended = Process::start(&["check", "--interface", "lo", "--format", "json", "-o", &name], &[]).finish();
    assert!(ended.stdout.is_empty(), "{}", ended.stdout);
    let account = std::fs::read_to_string(path).unwrap();
    assert!(account.contains("whyrelay.check/1"), "{account}");
    let help = Process::start(&["check", "--help"], &[]).finish();
    assert!(help.stdout.contains("whyrelay.check/1") && !help.stdout.contains("whyrelay.report/1"), "{}", help.stdout);
    // Whatever the width at which it is broken.
    let words = help.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("2 when nothing could be measured"), "{words}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_program_that_is_not_there_is_named_and_answers_127() {
    let ended = Process::start(&["lab", "exec", "two-homes", "a", "--", "nonesuch"], &[]).finish();
    assert_eq!(ended.code(), 127, "{}", ended.stderr);
    assert!(ended.stderr.contains("no program nonesuch") && ended.stderr.contains("hint:"), "{}", ended.stderr);
}

#[test]
fn a_wrong_turn_password_is_said_and_no_password_is_shown() {
    const PASSWORD: &str = "correct-horse-battery-staple";
    let server = Server::start();
    let directory = directory();
    let turn = format!("turn:{}", server.turn);
    let (recording, recording_name) = file(&directory, "a.jsonl");
    let common = ["--turn", &turn, "--turn-user", "alice", "-vvv"];
    let environment = [("TURN_PASSWORD", PASSWORD)];
    let b = server.peer_with("answer", "p", &common, &environment);
    let a = server.peer_with("offer", "p", &[&common[..], &["--record", &recording_name]].concat(), &environment);
    let (a, b) = (a.finish(), b.finish());
    assert!(a.stderr.contains("refuses the user name or the password"), "{}", a.stderr);
    assert!(a.stdout.starts_with("DIRECT"), "{}\n{}", a.stdout, a.stderr);
    let recording = std::fs::read_to_string(recording).unwrap();
    for (what, text) in [("stdout", &a.stdout), ("stderr", &a.stderr), ("b", &b.stderr), ("recording", &recording)] {
        assert!(!text.contains(PASSWORD), "the password is in {what}");
    }
}

#[test]
fn ice_passwords_and_announced_credentials_are_in_no_output() {
    let server = Server::start();
    let directory = directory();
    let (path, name) = file(&directory, "a.jsonl");
    let b = server.peer("answer", "s", &["-vvv"]);
    let a = server.peer("offer", "s", &["-vvv", "--record", &name]);
    let (a, b) = (a.finish(), b.finish());
    let recording = std::fs::read_to_string(path).unwrap();
    for text in [&a.stdout, &a.stderr, &b.stdout, &b.stderr, &recording] {
        assert!(!text.contains("ice-pwd"), "a description is shown");
        assert!(!text.contains("credential\":"), "an announcement is shown");
    }
}

#[test]
fn every_finding_can_be_explained() {
    let list = Process::start(&["explain", "--list"], &[]).finish();
    assert_eq!(list.code(), 0, "{}", list.stderr);
    for line in list.stdout.lines() {
        let code = line.split_whitespace().next().expect("a code");
        let explained = Process::start(&["explain", code], &[]).finish();
        assert_eq!(explained.code(), 0, "{code}: {}", explained.stderr);
        assert!(explained.stdout.starts_with(code) && explained.stdout.contains("How it is detected"), "{code}");
    }
    let unknown = Process::start(&["explain", "WR999"], &[]).finish();
    assert_eq!(unknown.code(), 2);
    assert!(unknown.stderr.contains("hint: `whyrelay explain --list`"), "{}", unknown.stderr);
}

#[test]
fn no_file_is_destroyed_by_the_command_that_reads_or_writes_it() {
    let directory = directory();
    let [(recording, recorded), (link, linked), (scenario, world), (_, new)] =
        ["a.jsonl", "link", "own.toml", "new"].map(|name| file(&directory, name));
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/../whyrelay-core/tests/recordings/failed.jsonl");
    std::fs::copy(kept, &recording).unwrap();
    std::os::unix::fs::symlink(&recording, link).unwrap();
    const WORLD: &str = "title = \"Own\"\n[host.a]\nbehind = \"pfsense\"\n[host.b]\nbehind = \"pfsense\"\n\
        [server]\n[expect]\npath = \"relayed\"\n";
    std::fs::write(&scenario, WORLD).unwrap();
    let before = std::fs::read(&recording).unwrap();
    let into = directory.path().display().to_string();
    let (of_a, own_a) = ("the recording", format!("{into}/own-a.jsonl"));
    let offer = ["offer", "--signal", "http://127.0.0.1:1", "--address", "127.0.0.2"];
    let table: [(&[&str], [&str; 2], &str); 9] = [
        (&["report", &recorded, "-o", &recorded, "--format", "json"], [of_a, "--output"], &recorded),
        (&["report", &recorded, "--pcap", &linked], [of_a, "--pcap"], &linked),
        (&["report", kept, "--pcap", &new, "-o", &new], ["--pcap", "--output"], &new),
        (&["check", "--interface", "lo", "--record", &new, "-o", &new], ["--record", "--output"], &new),
        (&["check", "--interface", "lo", "--record", &new, "--pcap", &new], ["--record", "--pcap"], &new),
        (&[&offer[..], &["--prove", &recorded, "--record", &linked]].concat(), ["--prove", "--record"], &recorded),
        (&[&offer[..], &["--html", &new, "-o", &new]].concat(), ["--output", "--html"], &new),
        (&["lab", "run", &world, "--junit", &world], ["the scenario", "--junit"], &world),
        (&["lab", "run", &world, "--record", &into, "--junit", &own_a], ["--record", "--junit"], &own_a),
    ];
    for (arguments, flags, named) in table {
        let ended = Process::start(arguments, &[]).finish();
        assert_eq!((ended.code(), ended.stdout.as_str()), (2, ""), "{arguments:?}: {}", ended.stderr);
        for words in [flags[0], flags[1], named, "are one file", "hint: "] {
            assert!(ended.stderr.contains(words), "{arguments:?}: {words}: {}", ended.stderr);
        }
        assert!(!std::path::Path::new(&new).exists(), "{arguments:?}");
    }
    assert_eq!(std::fs::read(recording).unwrap(), before);
    assert_eq!(std::fs::read_to_string(scenario).unwrap(), WORLD);
    let same = Process::start(&["report", kept, "-o", "/dev/null", "--pcap", "/dev/null"], &[]).finish();
    assert_eq!(same.code(), 1, "{}", same.stderr);
}

#[test]
fn a_check_whose_recording_could_not_be_written_says_so_by_its_exit_status() {
    let server = Server::start();
    let arguments = ["check", "--signal", &server.url, "--interface", "lo", "--record", "/dev/full"];
    let ended = Process::start(&arguments, &[]).finish();
    assert_eq!(ended.code(), 2, "{}", ended.stderr);
    assert!(ended.stdout.contains("Servers"), "the account is there all the same: {}", ended.stdout);
    let last = ended.stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("error: the recording /dev/full cannot be written"), "{}", ended.stderr);
}

#[test]
fn a_check_logs_what_it_sees_where_it_is_asked_to() {
    let server = Server::start();
    let arguments = ["check", "--signal", &server.url, "--interface", "lo"];
    let log = |more: &[&str]| Process::start(&[&arguments[..], more].concat(), &[]).finish().stderr;
    let told = log(&["-vv"]);
    assert!(told.contains("DEBUG whyrelay::check") && told.contains("127.0.0.1"), "{told}");
    assert!(!log(&[]).contains("DEBUG"));
    let hidden = log(&["-vv", "--redact"]);
    assert!(hidden.contains("DEBUG whyrelay::check"), "{hidden}");
    assert!(!hidden.lines().any(|line| line.contains("DEBUG whyrelay::check") && line.contains("127.")), "{hidden}");
}

#[test]
fn signaling_of_the_environment_is_no_part_of_a_check_of_other_servers() {
    let server = Server::start();
    let stun = format!("stun:{}", server.turn);
    let arguments = ["check", "--stun", &stun, "--interface", "lo"];
    let nowhere = "http://127.0.0.1:1";
    let besides = Process::start(&arguments, &[("WHYRELAY_SIGNAL", nowhere)]).finish();
    assert!(besides.code() < 2 && !besides.stdout.contains("WR701"), "{}", besides.stdout);
    let asked = Process::start(&[&arguments[..], &["--signal", nowhere]].concat(), &[]).finish();
    assert!(asked.stdout.contains("WR701"), "{}", asked.stdout);
    assert!(asked.code() < 2, "servers were measured: {}", asked.stdout);
}

/// An address is known before a name is, and what stands there is no whyrelay server.
#[test]
fn a_whyrelay_server_is_asked_for_all_it_measures_wherever_among_the_servers_it_is_named() {
    let server = Server::start();
    let port = server.turn.rsplit(':').next().unwrap_or_default().to_owned();
    let foreign = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (ours, other) = (format!("stun:localhost:{port}"), format!("stun:{}", foreign.local_addr().unwrap()));
    // It ends with the test's process.
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, source)) = foreign.recv_from(&mut buffer) {
            let answer = Message::decode(&buffer[..length]).ok().and_then(|message| answer(&message, source));
            let _ = answer.map(|answer| foreign.send_to(&answer, source));
        }
    });
    for servers in [[&ours, &other], [&other, &ours]] {
        let arguments = ["check", "--interface", "lo", "--format", "json", "--stun", servers[0], "--stun", servers[1]];
        let ended = Process::start(&arguments, &[]).finish();
        let account: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
        let clock =
            |row: &&serde_json::Value| row["name"] == "clock" && row["subject"] == format!("stun:127.0.0.1:{port}");
        let rows = account["rows"].as_array().unwrap();
        assert!(rows.iter().any(|row| clock(&row)), "{servers:?}: {rows:#?}");
        assert!(!ended.stdout.contains("did not say within"), "{servers:?}: {}", ended.stdout);
    }
}
