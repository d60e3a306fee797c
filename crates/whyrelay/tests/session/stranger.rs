//! The other end of signaling in our own hands: plain HTTP, no whyrelay code.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use whyrelay_core::signal::{Message, MessageType};

use crate::support::Server;

/// A description of one data channel that is whole, of a peer that is not there.
pub(crate) const SOUND: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n\
    m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\n\
    a=ice-ufrag:abcdefgh\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=setup:SETUP\r\na=sctp-port:5000\r\n\
    a=fingerprint:sha-256 3F:A0:11:6C:7D:29:00:5E:91:D8:42:B7:E3:1A:66:0F:C4:8B:52:97:AA:0D:EF:31:58:76:19:84:C2:4D:9B:E0\r\n";

/// A client.
pub(crate) struct Stranger<'a> {
    server: &'a Server,
    room: &'a str,
    id: &'a str,
    /// Its open poll, so that others can send to it.
    receiving: BufReader<TcpStream>,
}

impl<'a> Stranger<'a> {
    pub(crate) fn join(server: &'a Server, room: &'a str, id: &'a str) -> Self {
        let request = format!("GET /receive?id={id}&room={room} HTTP/1.1\r\nHost: x\r\n\r\n");
        let mut stream = connect(server);
        stream.write_all(request.as_bytes()).expect("signaling works");
        Self { server, room, id, receiving: BufReader::new(stream) }
    }

    /// Waits for a message of this type.
    pub(crate) fn wait_for(&mut self, kind: &str) {
        let wanted = format!("\"type\":\"{kind}\"");
        let mut line = String::new();
        while !line.contains(&wanted) {
            line.clear();
            assert!(
                self.receiving.read_line(&mut line).expect("signaling works") > 0,
                "signaling ended before the {kind}"
            );
        }
    }

    pub(crate) fn say(&self, kind: MessageType, to: &str, content: &str) {
        let body = Message::new(kind, self.id, to, content).to_json();
        let head = format!(
            "POST /send?room={} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.room,
            body.len()
        );
        let mut stream = connect(self.server);
        stream.write_all(head.as_bytes()).expect("signaling works");
        stream.write_all(body.as_bytes()).expect("signaling works");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("signaling works");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.url.trim_start_matches("http://")).expect("signaling works");
    stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).expect("signaling works");
    stream
}
