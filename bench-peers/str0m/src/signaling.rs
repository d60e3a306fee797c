//! As much of a signaling client as two peers of a bench need: POST /send, and GET /receive until a message comes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use crate::Outcome;

/// Sends one message.
pub(crate) fn send(server: &str, kind: &str, from: &str, to: &str, content: &str) -> Outcome<()> {
    let content = content.replace('\\', "\\\\").replace('"', "\\\"").replace('\r', "\\r").replace('\n', "\\n");
    let body = format!(r#"{{"type":"{kind}","content":"{content}","to":"{to}","from":"{from}"}}"#);
    let mut stream = TcpStream::connect(server)?;
    write!(
        stream,
        "POST /send HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(answer.into()) }
}

/// Waits for a message of one type and answers its content.
pub(crate) fn receive(server: &str, id: &str, kind: &str) -> Outcome<Receiver> {
    let mut stream = TcpStream::connect(server)?;
    write!(stream, "GET /receive?id={id} HTTP/1.1\r\nHost: {server}\r\n\r\n")?;
    Ok(Receiver { lines: BufReader::new(stream), wanted: format!(r#""type":"{kind}""#) })
}

/// A response that stays open.
pub(crate) struct Receiver {
    lines: BufReader<TcpStream>,
    wanted: String,
}

impl Receiver {
    pub(crate) fn next(&mut self) -> Outcome<String> {
        let mut line = String::new();
        while self.lines.read_line(&mut line)? > 0 {
            if line.contains(&self.wanted) {
                let (_, content) = line.split_once(r#""content":""#).ok_or("no content")?;
                let (content, _) = content.split_once(r#"","#).ok_or("no end of the content")?;
                return Ok(content.replace("\\r", "\r").replace("\\n", "\n").replace("\\\"", "\""));
            }
            line.clear();
        }
        Err("the server closed".into())
    }
}
