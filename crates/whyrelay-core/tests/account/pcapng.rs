//! The capture opens in Wireshark: addresses, ports, interfaces, times, and no malformed message.

use std::process::Command;

use whyrelay_core::trace::datagram::Passage;
use whyrelay_core::trace::event::{Datagram, Direction, EventKind, Transport, Vantage};
use whyrelay_core::trace::pcapng::{PcapngWriter, capture};
use whyrelay_core::wire::attribute::AttributeType;
use whyrelay_core::wire::integrity::Key;
use whyrelay_core::wire::stun::{Class, MessageBuilder, Method};
use whyrelay_core::wire::turn::{ChannelData, ChannelNumber};

use crate::builder::{Session, address};
use crate::report::{A, STUN, finish_relayed, relayed};

fn session() -> Session {
    let mut session = relayed();
    finish_relayed(&mut session);
    let (first, second) = (session.id(), session.id());
    let allocate = MessageBuilder::new(Class::Request, Method::ALLOCATE, first)
        .text(AttributeType::USERNAME, "1700:alice")
        .integrity(&Key::short_term("x"))
        .fingerprint()
        .build();
    let check = MessageBuilder::new(Class::Request, Method::BINDING, second)
        .text(AttributeType::USERNAME, "bbbb:aaaa")
        .u32(AttributeType::PRIORITY, 1)
        .integrity(&Key::short_term("x"))
        .fingerprint()
        .build();
    let inside = ChannelData::encode(ChannelNumber::FIRST, &check);
    let change_cipher_spec = vec![20, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1];
    for (transport, local, remote, bytes) in [
        (Transport::Tcp, "192.168.1.2:50001", "192.0.2.10:3478", &allocate),
        (Transport::Tcp, "192.168.1.2:50001", "192.0.2.10:3478", &inside),
        (Transport::Tls, "192.168.1.2:50002", "192.0.2.10:443", &allocate),
        (Transport::Tcp, "192.168.1.2:50003", "198.51.100.2:9999", &check),
        (Transport::Udp, "[2001:db8::1]:40000", "[2001:db8::2]:50000", &check),
        (Transport::Udp, A, STUN, &change_cipher_spec),
    ] {
        for direction in [Direction::Out, Direction::In] {
            let (local, remote) = (address(local), address(remote));
            let interface = Some("wlan0");
            let passage = Passage { direction, transport, local, remote, interface, bytes, integrity: None };
            session.push(Vantage::A, EventKind::Datagram(Datagram::sanitised(passage)));
        }
    }
    session
}

#[test]
fn blocks_written_as_they_happen_are_those_of_the_whole_capture() {
    let events = session().events;
    let mut writer = PcapngWriter::new();
    let live: Vec<u8> = events.iter().flat_map(|event| writer.push(event)).collect();
    assert_eq!(live, capture(&events));
    assert_eq!(live.len() % 4, 0);
}

/// One row a packet.
fn tshark(tool: &str, file: &str, filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new(tool);
    command.args(["-r", file, "-n", "-T", "fields", "-E", "separator=|", "-E", "occurrence=a"]);
    if !filter.is_empty() {
        command.args(["-Y", filter]);
    }
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.output().expect("tshark starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("tshark writes UTF-8");
    text.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
}

#[test]
#[expect(clippy::disallowed_methods, clippy::disallowed_macros, reason = "a test may look for a tool and write a file")]
fn tshark_reads_the_capture() {
    let tool = std::env::var("WHYRELAY_INTEROP_TSHARK").unwrap_or_else(|_| "/usr/bin/tshark".into());
    if !std::path::Path::new(&tool).exists() {
        assert!(std::env::var_os("CI").is_none(), "tshark is missing in CI: {tool}");
        eprintln!("skipped: {tool} is not installed");
        return;
    }
    let events = session().events;
    let datagrams: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.kind {
            EventKind::Datagram(datagram) => Some((event, datagram)),
            _ => None,
        })
        .collect();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("session.pcapng");
    std::fs::write(&file, capture(&events)).expect("the capture is written");
    let file = file.to_str().expect("a path in UTF-8");

    let fields = [
        "frame.time_epoch",
        "frame.interface_name",
        "ip.src",
        "ipv6.src",
        "udp.srcport",
        "tcp.srcport",
        "frame.protocols",
        "_ws.col.Source",
        "_ws.col.Protocol",
    ];
    let rows = tshark(&tool, file, "", &fields);
    assert_eq!(rows.len(), datagrams.len());
    for (row, (event, datagram)) in rows.iter().zip(&datagrams) {
        let source = if datagram.direction == Direction::Out { datagram.local } else { datagram.remote };
        assert_eq!(row[0], format!("{}000", event.at), "{row:?}");
        let interface =
            if datagram.transport == Transport::Tls { "tls" } else { datagram.interface.as_deref().expect("set") };
        assert_eq!(row[1], interface, "{row:?}");
        assert_eq!(row[7], source.ip().to_string(), "{row:?}");
        match datagram.transport {
            Transport::Udp => assert_eq!(row[4], source.port().to_string(), "{row:?}"),
            Transport::Tcp => assert_eq!(row[5], source.port().to_string(), "{row:?}"),
            Transport::Tls => {}
        }
        if datagram.transport != Transport::Tls {
            assert_eq!(format!("{}{}", row[2], row[3]), source.ip().to_string(), "{row:?}");
        }
        let protocol = if datagram.data.first() == Some(&20) { "dtls" } else { "stun" };
        assert!(row[6].contains(protocol), "{row:?}");
    }

    // Every message of the recording is one to Wireshark, too, with a right FINGERPRINT and right checksums.
    let is_stun = |bytes: &[u8]| bytes.first().is_some_and(|first| *first < 4);
    let expected = datagrams.iter().filter(|(_, datagram)| is_stun(&datagram.data)).count();
    assert_eq!(tshark(&tool, file, "stun.id", &["frame.number"]).len(), expected);
    for filter in [
        "_ws.malformed",
        "stun.att.crc32.bad",
        "ip.checksum.status == 0",
        "tcp.analysis.lost_segment",
        "tcp.analysis.retransmission",
    ] {
        assert_eq!(tshark(&tool, file, filter, &["frame.number"]), Vec::<Vec<String>>::new(), "{filter}");
    }
    let checked = Command::new(&tool)
        .args(["-r", file, "-n", "-o", "udp.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE"])
        .args(["-Y", "udp.checksum.status == 0 || tcp.checksum.status == 0"])
        .output()
        .expect("tshark starts");
    assert_eq!(String::from_utf8_lossy(&checked.stdout), "");
}
