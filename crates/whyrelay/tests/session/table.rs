//! The live table of `whyrelay check` on a terminal.

use crate::pty::Pty;
use crate::support::Server;

/// Every row that the terminal has ever scrolled away, and those that it shows.
fn history(written: &[u8], (rows, columns): (u16, u16)) -> Vec<String> {
    let mut terminal = vt100::Parser::new(
        rows.try_into().expect("a terminal has rows"),
        columns.try_into().expect("a terminal has columns"),
        5000,
    );
    terminal.process(written);
    terminal.screen_mut().set_scrollback(usize::MAX);
    let away = terminal.screen().scrollback();
    let mut lines = Vec::new();
    for back in (1..=away).rev() {
        terminal.screen_mut().set_scrollback(back);
        lines.extend(terminal.screen().rows(0, columns).next());
    }
    terminal.screen_mut().set_scrollback(0);
    lines.extend(terminal.screen().rows(0, columns));
    lines
}

#[test]
fn the_table_is_drawn_while_it_looks_and_leaves_nothing_behind_on_any_terminal() {
    // A server that says nothing: else it is over before there is anything to watch.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let silent = silent.local_addr().expect("its address");
    let server = Server::start();
    // The account itself goes elsewhere.
    let command = format!(
        "exec {} check --signal {} --stun stun:{silent} --address 127.0.0.1 > /dev/null",
        env!("CARGO_BIN_EXE_whyrelay"),
        server.url
    );
    // Roomy, and with fewer rows and columns than the table has.
    for size in [(60, 200), (12, 200), (60, 40), (10, 34)] {
        let mut terminal = Pty::run(&["sh", "-c", &command], size, &[]);
        terminal.finish();
        let written = String::from_utf8_lossy(&terminal.written()).into_owned();
        assert!(written.contains("What gets through"), "{size:?}: {written}");
        let left: Vec<String> = history(&terminal.written(), size).into_iter().filter(|row| !row.is_empty()).collect();
        assert!(left.is_empty(), "{size:?}: {left:#?}");
    }
}
