//! Any answers of a router, or of who answers in its place: the client never panics, comes to rest, asks nobody but the
//! gateway, and any requests to our router keep its table bounded.
#![no_main]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use whyrelay_core::engine::port_mapping::router::{MappingRouter, RouterConfig};
use whyrelay_core::engine::port_mapping::{ExchangeId, Input, Output, PortMapper};
use whyrelay_core::random::Random;
use whyrelay_core::time::Timestamp;
use whyrelay_core::wire::portmap::{PORT, ssdp};

const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

fuzz_target!(|bytes: &[u8]| {
    let mut now = Timestamp::from_micros(1_000_000);
    let mut client = PortMapper::new(now, HOST, GATEWAY, Random::from_number(1));
    let config = RouterConfig {
        internal: GATEWAY,
        external: Ipv4Addr::new(203, 0, 113, 7),
        nat_pmp: true,
        pcp: true,
        upnp: Some(5000),
    };
    let mut router = MappingRouter::new(now, config);
    let mut rest = bytes;
    while let [what, length, more @ ..] = rest {
        let (data, later) = more.split_at((usize::from(*length) * 4).min(more.len()));
        rest = later;
        let ports = [PORT, ssdp::GROUP.port(), 5000];
        let port = ports[usize::from(what >> 3) % ports.len()];
        let input = match what & 7 {
            0 | 1 => Input::Datagram { remote: SocketAddr::from((GATEWAY, port)), bytes: data },
            2 => Input::Datagram { remote: SocketAddr::from(([192, 168, 1, 3], port)), bytes: data },
            3 => Input::Exchanged { exchange: ExchangeId(u32::from(what >> 3)), bytes: data },
            4 => Input::ExchangeFailed { exchange: ExchangeId(u32::from(what >> 3)), detail: "refused" },
            5 => Input::Map { internal_port: 4000 },
            6 if what >> 3 == 7 => Input::Unmap,
            6 => Input::SendFailed { remote: SocketAddr::from((GATEWAY, port)) },
            _ => {
                now += Duration::from_millis(u64::from(*length) * 10);
                Input::Timeout
            }
        };
        client.handle_input(now, input);
        for step in 0.. {
            assert!(step < 100, "it must come to rest");
            match client.poll_output() {
                Output::Transmit { remote, .. } => {
                    assert!(remote.ip() == GATEWAY || remote == SocketAddr::V4(ssdp::GROUP));
                }
                Output::Exchange { remote, .. } => assert_eq!(remote.ip(), GATEWAY),
                Output::Timeout(_) => break,
                _ => {}
            }
        }
        let _ = router.datagram(now, SocketAddr::from((HOST, 4000)), port, data);
        let _ = router.http(now, HOST.into(), data);
        assert!(router.forwards(now).count() <= 128);
    }
});
