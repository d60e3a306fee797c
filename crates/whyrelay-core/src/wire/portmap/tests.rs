//! Messages as the RFCs draw them, as real routers write them, and as nobody should.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use proptest::prelude::*;

use super::http::{self, Progress};
use super::igd::{self, Action, Fault, Outcome, ServiceType, Target};
use super::{nat_pmp, pcp, ssdp, xml};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

#[test]
fn nat_pmp_is_laid_out_as_rfc_6886_section_3_draws_it() {
    assert_eq!(nat_pmp::Request::ExternalAddress.encode(), [0, 0]);
    let mapping = nat_pmp::Mapping { internal_port: 0x1234, external_port: 0x5678, lifetime_s: 7200 };
    let request = nat_pmp::Request::Map(mapping);
    assert_eq!(request.encode(), [0, 1, 0, 0, 0x12, 0x34, 0x56, 0x78, 0, 0, 0x1C, 0x20]);
    let answer = [0, 128, 0, 0, 0, 0, 0, 9, 203, 0, 113, 7];
    let address = Ipv4Addr::new(203, 0, 113, 7);
    let read = nat_pmp::Response::decode(&answer);
    assert_eq!(read, Some(nat_pmp::Response::ExternalAddress { epoch_s: 9, address }));
    let mapped = [0, 129, 0, 0, 0, 0, 0, 9, 0x12, 0x34, 0x56, 0x78, 0, 0, 0x1C, 0x20];
    assert_eq!(nat_pmp::Response::decode(&mapped), Some(nat_pmp::Response::Mapped { epoch_s: 9, mapping }));
    let refused = nat_pmp::Response::decode(&[0, 128, 0, 2]);
    let result = nat_pmp::ResultCode::REFUSED;
    assert_eq!(refused, Some(nat_pmp::Response::Refused { operation: 0, result }));
    for not in [&[][..], &[0], &[0, 0], &[0, 128, 0], &[0, 128, 0, 0, 1], &[2, 128, 0, 0], &mapped[..15]] {
        assert_eq!(nat_pmp::Response::decode(not), None, "{not:?}");
    }
}

#[test]
fn pcp_is_laid_out_as_rfc_6887_sections_7_and_11_draw_it() {
    let client: IpAddr = "192.168.1.2".parse().unwrap();
    let announce = pcp::Request { lifetime_s: 0, client, operation: pcp::Operation::Announce }.encode();
    let mut wanted = vec![2, 0, 0, 0, 0, 0, 0, 0];
    wanted.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 192, 168, 1, 2]);
    assert_eq!(announce, wanted);
    let map = pcp::Map {
        nonce: [7; 12],
        protocol: pcp::UDP,
        internal_port: 0x1234,
        external_port: 0x5678,
        external_address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let mut bytes = pcp::Request { lifetime_s: 120, client, operation: pcp::Operation::Map(map) }.encode();
    assert_eq!(bytes.len(), 60);
    assert_eq!((&bytes[..8], &bytes[24..36]), (&[2, 1, 0, 0, 0, 0, 0, 120][..], &[7; 12][..]));
    assert_eq!(bytes[36..44], [17, 0, 0, 0, 0x12, 0x34, 0x56, 0x78]);
    pcp::blank_nonce(&mut bytes);
    assert_eq!(bytes[24..36], [0; 12]);
    assert_eq!(bytes[36], 17);
    assert!(!format!("{map:?}").contains("7, 7"));
}

#[test]
fn a_router_that_speaks_another_version_is_understood() {
    // RFC 6887 §9: a NAT-PMP router answers version 2 with version 0, result 1.
    let answer = [0, 129, 0, 1, 0, 0, 0, 0];
    assert_eq!(pcp::Response::decode(&answer), None);
    let result = nat_pmp::ResultCode::UNSUPPORTED_VERSION;
    assert_eq!(nat_pmp::Response::decode(&answer), Some(nat_pmp::Response::Refused { operation: 1, result }));
    // An error of PCP without the body of its request.
    let mut short = vec![2, 129, 0, 2];
    short.resize(24, 0);
    assert_eq!(pcp::Response::decode(&short).map(|response| response.result), Some(pcp::ResultCode::NOT_AUTHORIZED));
}

#[test]
fn searches_and_answers_are_read_as_routers_write_them() {
    let multicast = String::from_utf8(ssdp::search(ssdp::GROUP)).unwrap();
    assert!(multicast.starts_with("M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n"), "{multicast}");
    assert!(multicast.contains("\r\nMX: 1\r\n") && multicast.ends_with("\r\n\r\n"));
    let unicast = ssdp::search(SocketAddrV4::new(GATEWAY, 1900));
    assert!(!String::from_utf8(unicast.clone()).unwrap().contains("MX:"));
    assert_eq!(ssdp::decode_search(&unicast).as_deref(), Some(ssdp::GATEWAY_DEVICE));
    let written =
        b"HTTP/1.1 200 OK\r\nCache-Control: max-age=1800\r\nSt:urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\
        Location:  http://192.168.1.1:5000/rootDesc.xml\r\nUSN: uuid:x\r\n";
    let answer = ssdp::Answer::decode(written).unwrap();
    assert_eq!(answer.location, "http://192.168.1.1:5000/rootDesc.xml");
    assert_eq!(ssdp::Answer::decode(&answer.encode()), Some(answer));
    for not in [&b"HTTP/1.1 404 no\r\nLocation: x\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\n\r\n", b"\xFF\xFE", b""] {
        assert_eq!(ssdp::Answer::decode(not), None);
    }
}

#[test]
fn http_is_read_in_pieces_whole_and_in_chunks() {
    let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".as_slice();
    for cut in 0..whole.len() {
        assert_eq!(http::response(&whole[..cut], false), Progress::More, "{cut}");
    }
    let expected = Progress::Complete(http::Response { status: 200, body: b"hello".to_vec() });
    assert_eq!(http::response(whole, false), expected);
    let chunked = b"HTTP/1.0 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
    assert_eq!(http::response(chunked, false), expected);
    let endless = b"HTTP/1.1 200 OK\n\nhello".as_slice();
    assert_eq!(http::response(endless, false), Progress::More);
    assert_eq!(http::response(endless, true), expected);
    let promised = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999\r\n\r\nhello";
    assert_eq!(http::response(promised, false), Progress::More);
    assert!(matches!(http::response(b"SSH-2.0-x\r\n\r\n", false), Progress::Bad(_)));
    assert!(matches!(http::response(&vec![b'x'; http::MAX_BYTES + 1], false), Progress::Bad(_)));
    let bad_chunk = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n";
    assert!(matches!(http::response(bad_chunk, true), Progress::Bad(_)));
}

#[test]
fn services_are_found_in_nested_and_in_sloppy_descriptions() {
    let ours = igd::description(ServiceType::Ip2, "/ctl?a=1&b=2");
    let service = igd::Service { kind: ServiceType::Ip2, control_url: "/ctl?a=1&b=2".into() };
    assert_eq!(igd::services(&ours), [service]);
    let sloppy = "<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'b'>]><root><!-- <service> --><service>\
        <serviceType>urn:schemas-upnp-org:service:Layer3Forwarding:1</serviceType><controlURL>/l3f</controlURL></service>\
        <n:service ><serviceType> urn:schemas-upnp-org:service:WANPPPConnection:1\n</serviceType>\
        <controlURL><![CDATA[ppp/ctl]]></controlURL><eventSubURL/></n:service><service><serviceType>\
        urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>/ip</controlURL>";
    let service = igd::Service { kind: ServiceType::Ppp1, control_url: "ppp/ctl".into() };
    assert_eq!(igd::services(sloppy), [service], "the last one is not closed, so its control may be cut off");
    let many = "<service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>\
        <controlURL>/x</controlURL></service>"
        .repeat(1000);
    assert_eq!(igd::services(&many).len(), 8);
}

#[test]
fn only_the_gateway_itself_is_ever_asked() {
    let base = Target::of("http://192.168.1.1:5000/a/desc.xml?x=/y/z", GATEWAY, None).unwrap();
    let at = |url: &str| Target::of(url, GATEWAY, Some(&base)).map(|target| (target.address.port(), target.path));
    assert_eq!(at("/ctl"), Some((5000, "/ctl".into())));
    assert_eq!(at("ctl"), Some((5000, "/a/ctl".into())));
    assert_eq!(at("HTTP://192.168.1.1/ctl#f"), Some((80, "/ctl".into())));
    assert_eq!(at("http://192.168.1.1:49152"), Some((49152, "/".into())));
    for elsewhere in [
        "http://192.168.1.2/ctl",
        "http://router.lan/ctl",
        "http://192.168.1.1@evil.example/ctl",
        "http://evil.example:80/192.168.1.1",
        "http://0xC0A80101/",
        "http://192.168.1.1:0/",
        "http://192.168.1.1:99999/",
        "http://[::1]/",
        "http://127.0.0.1/ctl",
        "/two words",
        "/a\r\nX-Injected: 1",
        "/\u{e4}",
    ] {
        assert_eq!(at(elsewhere), None, "{elsewhere}");
    }
    assert_eq!(at(&format!("/{}", "x".repeat(600))), None);
    assert_eq!(Target::of("/relative", GATEWAY, None), None);
}

#[test]
fn actions_survive_their_own_wire_and_faults_are_told() {
    let target = Target::of("http://192.168.1.1:5000/ctl", GATEWAY, None).unwrap();
    let internal = SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, 2), 4000);
    for action in [
        Action::ExternalAddress,
        Action::Add { external_port: 5000, internal, lease_s: 120 },
        Action::Delete { external_port: 5000 },
    ] {
        let Progress::Complete(request) = http::request(&action.request(&target, ServiceType::Ip1)) else {
            panic!("{action:?}")
        };
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/ctl"));
        let body = String::from_utf8(request.body).unwrap();
        assert_eq!(Action::decode(&request.action.unwrap(), &body), Some(action));
        let body = action.answer(ServiceType::Ip1, Ipv4Addr::new(203, 0, 113, 7)).into_bytes();
        let told = matches!(action, Action::ExternalAddress).then(|| "203.0.113.7".parse().unwrap());
        assert_eq!(igd::outcome(&http::Response { status: 200, body }), Outcome::Done { external: told });
    }
    let body = Fault::body(718, "Conflict<\u{1b}[31m>").into_bytes();
    let fault = Fault { code: 718, words: "Conflict<[31m>".into() };
    assert_eq!(igd::outcome(&http::Response { status: 500, body }), Outcome::Fault(fault));
    let none = igd::outcome(&http::Response { status: 503, body: vec![] });
    assert_eq!(none, Outcome::Fault(Fault { code: 0, words: "HTTP status 503".into() }));
}

#[test]
fn the_first_text_of_an_element_is_taken_and_entities_are_not_expanded_twice() {
    assert_eq!(xml::text_of("<a><b>&amp;lt;</b></a>", "b").as_deref(), Some("&lt;"));
    assert_eq!(xml::text_of("<a><b/></a>", "b").as_deref(), Some(""));
    assert_eq!(xml::text_of("<a><b><c>x</c></b></a>", "b").as_deref(), Some(""));
    assert_eq!(xml::text_of("<a>x</a>", "b"), None);
}

proptest! {
    #[test]
    fn nat_pmp_round_trips(internal_port: u16, external_port: u16, lifetime_s: u32, epoch_s: u32, result in 1..9_u16) {
        let mapping = nat_pmp::Mapping { internal_port, external_port, lifetime_s };
        let request = nat_pmp::Request::Map(mapping);
        prop_assert_eq!(nat_pmp::Request::decode(&request.encode()), Some(request));
        let result = nat_pmp::ResultCode(result);
        for response in [
            nat_pmp::Response::Mapped { epoch_s, mapping },
            nat_pmp::Response::ExternalAddress { epoch_s, address: Ipv4Addr::from(lifetime_s) },
            nat_pmp::Response::Refused { operation: 1, result },
        ] {
            prop_assert_eq!(nat_pmp::Response::decode(&response.encode()), Some(response));
        }
    }

    #[test]
    fn pcp_round_trips(nonce: [u8; 12], ports: (u16, u16), lifetime_s: u32, epoch_s: u32, ip: u32, six: u128, code: u8) {
        let client = IpAddr::V4(Ipv4Addr::from(ip));
        let external_address = std::net::Ipv6Addr::from(six).to_canonical();
        let (internal_port, external_port) = ports;
        let map = pcp::Map { nonce, protocol: pcp::UDP, internal_port, external_port, external_address };
        for operation in [pcp::Operation::Map(map), pcp::Operation::Announce] {
            let request = pcp::Request { lifetime_s, client, operation };
            prop_assert_eq!(pcp::Request::decode(&request.encode()), Some(request));
            let response = pcp::Response { result: pcp::ResultCode(code), lifetime_s, epoch_s, operation };
            prop_assert_eq!(pcp::Response::decode(&response.encode()), Some(response));
        }
    }

    #[test]
    fn any_bytes_are_read_without_harm(bytes: Vec<u8>, ended: bool) {
        let _ = (nat_pmp::Request::decode(&bytes), nat_pmp::Response::decode(&bytes));
        let _ = (pcp::Request::decode(&bytes), pcp::Response::decode(&bytes));
        let _ = (ssdp::Answer::decode(&bytes), ssdp::decode_search(&bytes));
        let _ = (http::response(&bytes, ended), http::request(&bytes));
        pcp::blank_nonce(&mut bytes.clone());
    }

    #[test]
    fn any_text_is_read_without_harm(text in "(<[a-z/!?:-]{0,9}>?|service|controlURL|[\u{0}-\u{ff}]|]]>|<!\\[CDATA\\[){0,40}") {
        let _ = igd::services(&text);
        let _ = (xml::text_of(&text, "service"), Target::of(&text, GATEWAY, None), Action::decode(&text, &text));
    }
}
