//! Rows about what the servers answer sockets like another program's (`--as`), beside a plain program's.

use super::{Row, Section, State};
use crate::diagnosis::evidence::SideEvidence;

pub(super) fn of(side: &SideEvidence) -> Vec<Row> {
    let host = &side.host;
    let Some((seq, application)) = &host.application else { return Vec::new() };
    let row = |subject: String, name, value, state, evidence| Row {
        section: Section::AsProgram,
        subject,
        name,
        value,
        state,
        evidence,
    };
    let mut rows = Vec::new();
    for as_application in [true, false] {
        let Some((tally_seq, tally)) = host.tallies.get(&as_application) else { continue };
        let subject = if as_application { application.asked.as_str() } else { "a plain program" };
        let (value, state) = match (tally.server_answers, tally.server_requests) {
            (_, 0) => ("not measured: no server was asked over UDP".to_owned(), State::Plain),
            (answers, asked) if answers == asked => (format!("{answers} of {asked} answer"), State::Good),
            (answers, asked) => (format!("{answers} of {asked} answer"), State::Bad),
        };
        rows.push(row(format!("as {subject}"), "servers", value, state, vec![*seq, *tally_seq]));
        if !as_application {
            continue;
        }
        // What it could not be is told below, and its sockets had no mark then.
        let mark = application.mark.filter(|_| !application.lacks_mark()).map(|mark| format!("mark {mark:#x}"));
        let port = application.port.map(|port| {
            let taken = if application.port_used { "" } else { " (taken: another was used)" };
            format!("port {port}{taken}")
        });
        let made: Vec<String> = mark.into_iter().chain(port).collect();
        if !made.is_empty() {
            rows.push(row(format!("as {subject}"), "sockets", made.join(", "), State::Plain, vec![*seq]));
        }
        for what in &application.not_imitated {
            rows.push(row(format!("as {subject}"), "not like it", what.clone(), State::Warning, vec![*seq]));
        }
    }
    rows
}
