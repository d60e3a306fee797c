use proptest::prelude::*;

use super::*;
use crate::ice::candidate::CandidateType;

const SHA256: &str = "3F:A0:11:6C:7D:29:00:5E:91:D8:42:B7:E3:1A:66:0F:C4:8B:52:97:AA:0D:EF:31:58:76:19:84:C2:4D:9B:E0";

/// In the shape of Chromium's offers: the data channel in a bundle, credentials in the section.
fn chromium_offer() -> String {
    format!(
        "v=0\r\no=- 5523819045223617542 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
         a=extmap-allow-mixed\r\na=msid-semantic: WMS\r\n\
         m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n\
         a=candidate:1467250027 1 udp 2113937151 8f3e7a10-0b6c-4d6b-9a53-1f6f0cf8b1de.local 45123 typ host generation 0 network-cost 999\r\n\
         a=ice-ufrag:kQ7z\r\na=ice-pwd:h0Yb5DkqWm2nVt8sXc3Lr1Ze\r\na=ice-options:trickle\r\n\
         a=fingerprint:sha-256 {SHA256}\r\na=setup:actpass\r\na=mid:0\r\na=sctp-port:5000\r\na=max-message-size:262144\r\n"
    )
}

/// In the shape of Firefox's offers: fingerprint and options at the session level, newline only, large version.
fn firefox_offer() -> String {
    format!(
        "v=0\no=mozilla...THIS_IS_SDPARTA-99.0 4117709332120049573 0 IN IP4 0.0.0.0\ns=-\nt=0 0\na=sendrecv\n\
         a=fingerprint:sha-256 {SHA256}\na=group:BUNDLE 0\na=ice-options:trickle\na=msid-semantic:WMS *\n\
         m=application 9 UDP/DTLS/SCTP webrtc-datachannel\nc=IN IP4 0.0.0.0\na=sendrecv\na=ice-pwd:9d1ab2c36f0e4b7d8890aabbccddeeff\n\
         a=ice-ufrag:4f0c92d1\na=mid:0\na=setup:actpass\na=sctp-port:5000\na=max-message-size:1073741823\n"
    )
}

/// In the shape of Pion's answers.
fn pion_answer() -> String {
    format!(
        "v=0\r\no=- 2890112345123456789 1732280000 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n\
         a=fingerprint:sha-256 {SHA256}\r\na=extmap-allow-mixed\r\na=group:BUNDLE 0\r\n\
         m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=setup:active\r\na=mid:0\r\n\
         a=sendrecv\r\na=sctp-port:5000\r\na=max-message-size:1073741823\r\na=ice-ufrag:uVbQmWnTlKzRyXcP\r\n\
         a=ice-pwd:aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeF\r\n\
         a=candidate:1234567 1 udp 2130706431 192.0.2.4 40404 typ host ufrag uVbQmWnTlKzRyXcP\r\n\
         a=candidate:1234567 2 udp 2130706431 192.0.2.4 40404 typ host\r\na=end-of-candidates\r\n"
    )
}

/// In the shape of aiortc's offers: three fingerprints, candidates inside.
fn aiortc_offer() -> String {
    let digest = |length: usize| vec!["0A"; length].join(":");
    format!(
        "v=0\r\no=- 3941352123 3941352123 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\na=msid-semantic:WMS *\r\n\
         m=application 51234 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 198.51.100.9\r\na=mid:0\r\na=sctp-port:5000\r\n\
         a=max-message-size:65536\r\n\
         a=candidate:5a8e5cfc7a0eb1a2dc1ef7cbd3fe1fd8 1 udp 2130706431 198.51.100.9 51234 typ host\r\n\
         a=end-of-candidates\r\na=ice-ufrag:Rn2p\r\na=ice-pwd:0LkJhGfDsAqWeRtYuIoP12\r\n\
         a=fingerprint:sha-256 {SHA256}\r\na=fingerprint:sha-384 {}\r\na=fingerprint:sha-512 {}\r\na=setup:actpass\r\n",
        digest(48),
        digest(64),
    )
}

/// The old form, with an audio section before the data channel's.
fn old_offer() -> String {
    format!(
        "v=0\r\no=- 77 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=ice-ufrag:oldf\r\na=ice-pwd:0123456789012345678901\r\n\
         m=audio 9 UDP/TLS/RTP/SAVPF 111 0\r\na=mid:audio\r\na=setup:actpass\r\n\
         m=application 9 DTLS/SCTP 5001\r\na=mid:data\r\na=fingerprint:sha-256 {SHA256}\r\na=setup:passive\r\n\
         a=sctpmap:5001 webrtc-datachannel 1024\r\n"
    )
}

fn local() -> LocalParameters {
    LocalParameters::generate(&mut Random::from_number(1), Fingerprint::of_certificate(b"certificate"))
}

#[test]
fn descriptions_of_real_stacks_are_read() {
    let chromium = SessionDescription::parse(SdpType::Offer, &chromium_offer()).unwrap();
    assert_eq!((chromium.ufrag.as_str(), chromium.password.expose()), ("kQ7z", "h0Yb5DkqWm2nVt8sXc3Lr1Ze"));
    assert_eq!(chromium.fingerprints, [format!("sha-256 {SHA256}").parse().unwrap()]);
    assert!(chromium.bundled && chromium.trickles() && !chromium.end_of_candidates);
    assert_eq!((chromium.session_id, chromium.session_version), (5_523_819_045_223_617_542, 2));
    assert_eq!(chromium.candidates.len(), 1);

    let firefox = SessionDescription::parse(SdpType::Offer, &firefox_offer()).unwrap();
    assert_eq!((firefox.setup, firefox.max_message_size), (Setup::Actpass, Some(1_073_741_823)));
    assert!(firefox.trickles() && firefox.bundled);
    assert_eq!(firefox.fingerprints.len(), 1);

    let pion = SessionDescription::parse(SdpType::Answer, &pion_answer()).unwrap();
    assert_eq!(pion.setup, Setup::Active);
    assert_eq!(pion.candidates[0].kind, CandidateType::Host);
    assert!(pion.end_of_candidates && !pion.trickles());

    let aiortc = SessionDescription::parse(SdpType::Offer, &aiortc_offer()).unwrap();
    assert_eq!(aiortc.fingerprints.len(), 3);
    assert_eq!(aiortc.max_message_size, Some(65536));
}

#[test]
fn the_data_channel_is_found_among_other_sections_and_the_answer_keeps_their_order() {
    let offer = SessionDescription::parse(SdpType::Offer, &old_offer()).unwrap();
    assert_eq!((offer.section, offer.sctp_port, offer.protocol), (1, 5001, Protocol::DtlsSctp));
    assert_eq!(offer.ufrag, "oldf");
    let answer = SessionDescription::answer(&offer, local());
    assert_eq!(answer.setup, Setup::Active);
    let text = answer.to_string();
    let sections: Vec<&str> = text.lines().filter(|line| line.starts_with("m=")).collect();
    assert_eq!(sections, ["m=audio 0 UDP/TLS/RTP/SAVPF 111 0", "m=application 9 DTLS/SCTP 5000"]);
    assert!(text.contains("a=sctpmap:5000 webrtc-datachannel 65535\r\n"));
}

#[test]
fn an_offer_and_its_answer_read_as() {
    let offer = SessionDescription::offer(local());
    insta::assert_snapshot!(offer.to_string().replace('\r', ""), @"
    v=0
    o=- 1099639492773029027 1 IN IP4 127.0.0.1
    s=-
    t=0 0
    a=group:BUNDLE 0
    m=application 9 UDP/DTLS/SCTP webrtc-datachannel
    c=IN IP4 0.0.0.0
    a=mid:0
    a=ice-ufrag:dDw+tp9f
    a=ice-pwd:ALpH9TOVAteDdZNLWTjyhUOmXL50W8ef
    a=ice-options:trickle ice2
    a=fingerprint:sha-256 03:D6:6D:D0:88:35:C1:CA:3F:12:8C:CE:AC:D1:F3:1A:C9:41:63:09:6B:20:F4:45:AE:84:28:5B:C0:83:2D:72
    a=setup:actpass
    a=sctp-port:5000
    a=max-message-size:65536
    ");
    let mut answer = SessionDescription::answer(&offer, local());
    answer.sctp_init = Some(vec![1, 2, 3]);
    answer.candidates = vec!["candidate:1 1 udp 1 192.0.2.1 5 typ host".parse().unwrap()];
    answer.end_of_candidates = true;
    let read = SessionDescription::parse(SdpType::Answer, &answer.to_string()).unwrap();
    assert_eq!(read, answer);
    assert_eq!(DtlsRole::negotiate(answer.setup, offer.setup), Ok(DtlsRole::Client));
    assert_eq!(DtlsRole::negotiate(offer.setup, answer.setup), Ok(DtlsRole::Server));
}

#[test]
fn roles_exclude_or_complete_each_other() {
    assert_eq!(Setup::Active.answer(), Setup::Passive);
    for (offer, answer) in [(Setup::Actpass, Setup::Active), (Setup::Actpass, Setup::Passive)] {
        let (one, other) = (DtlsRole::negotiate(offer, answer).unwrap(), DtlsRole::negotiate(answer, offer).unwrap());
        assert_ne!(one, other);
    }
    assert!(DtlsRole::negotiate(Setup::Active, Setup::Active).is_err());
    assert!(DtlsRole::negotiate(Setup::Passive, Setup::Passive).is_err());
}

#[test]
fn what_cannot_work_is_named() {
    let good = chromium_offer();
    let without = |name: &str| -> String {
        let prefix = format!("a={name}:");
        good.split_inclusive('\n').filter(|line| !line.starts_with(&prefix)).collect()
    };
    let cases = [
        (String::new(), SdpError::NotSdp),
        ("nonsense".to_owned(), SdpError::NotSdp),
        ("v=0\r\n".to_owned(), SdpError::NoDataChannel { media: vec![] }),
        ("v=0\nm=audio 9 RTP/AVP 0\n".to_owned(), SdpError::NoDataChannel { media: vec!["audio".into()] }),
        (good.replace("m=application 9", "m=application 0"), SdpError::DataChannelRejected),
        (without("ice-ufrag"), SdpError::Missing("ice-ufrag")),
        (without("ice-pwd"), SdpError::Missing("ice-pwd")),
        (without("fingerprint"), SdpError::Missing("fingerprint")),
        (good.replace("kQ7z", "kQ7"), SdpError::BadCredential("ice-ufrag")),
        (good.replace("h0Yb5DkqWm2nVt8sXc3Lr1Ze", "short"), SdpError::BadCredential("ice-pwd")),
        (good.replace("sha-256", "md5"), SdpError::NoKnownFingerprint { found: vec!["md5".into()] }),
        (good.replace("actpass", "holdconn"), SdpError::Invalid { attribute: "setup", found: "holdconn".into() }),
        (
            good.replace("sctp-port:5000", "sctp-port:0"),
            SdpError::Invalid { attribute: "sctp-port", found: "0".into() },
        ),
        (good.clone() + &"a=x\n".repeat(MAX_LENGTH), SdpError::TooLong(good.len() + 4 * MAX_LENGTH)),
    ];
    for (text, error) in cases {
        assert_eq!(SessionDescription::parse(SdpType::Offer, &text).unwrap_err(), error);
    }
}

#[test]
fn a_bad_candidate_line_is_kept_apart_and_harms_nothing() {
    let text = chromium_offer() + "a=candidate:garbage\r\n";
    let read = SessionDescription::parse(SdpType::Offer, &text).unwrap();
    assert_eq!((read.candidates.len(), read.refused_candidates.len()), (1, 1));
}

#[test]
fn candidates_are_bounded() {
    let text = chromium_offer() + &"a=candidate:1 1 udp 1 10.0.0.1 1 typ host\r\n".repeat(MAX_CANDIDATES + 9);
    assert_eq!(SessionDescription::parse(SdpType::Offer, &text).unwrap().candidates.len(), MAX_CANDIDATES);
}

#[test]
fn the_password_is_in_no_debug_form_and_no_error() {
    let offer = SessionDescription::parse(SdpType::Offer, &chromium_offer()).unwrap();
    assert!(!format!("{offer:?}").contains("h0Yb5"));
    let error =
        SessionDescription::parse(SdpType::Offer, &chromium_offer().replace("h0Yb5Dk", "h0 Yb5Dk")).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("Yb5"));
}

prop_compose! {
    fn any_description()(
        kind in prop_oneof![Just(Setup::Actpass), Just(Setup::Active), Just(Setup::Passive)],
        protocol in prop_oneof![Just(Protocol::UdpDtlsSctp), Just(Protocol::TcpDtlsSctp), Just(Protocol::DtlsSctp)],
        numbers in any::<(u64, u64)>(),
        sctp_port in 1u16..,
        ufrag in "[a-zA-Z0-9+/]{4,256}",
        password in "[a-zA-Z0-9+/]{22,256}",
        size in proptest::option::of(1u64..),
        flags in any::<(bool, bool)>(),
        init in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..99)),
        mid in proptest::option::of("[a-z0-9]{1,16}"),
        others in proptest::collection::vec(("[a-z]{1,9}", "[A-Z/]{1,9}", "[0-9]{1,3}( [0-9]{1,3}){0,3}", proptest::option::of("[A-Z]{1,4}")), 0..4),
        section in 0usize..5,
    ) -> SessionDescription {
        let other_media: Vec<_> = others.into_iter().map(|(media, protocol, formats, mid)| OtherMedia { media, protocol, formats, mid }).collect();
        SessionDescription {
            session_id: numbers.0,
            session_version: numbers.1,
            ufrag,
            password: IcePassword::new(password),
            ice_lite: flags.0,
            setup: kind,
            bundled: mid.is_some(),
            mid,
            protocol,
            sctp_port,
            max_message_size: size,
            sctp_init: init,
            end_of_candidates: flags.1,
            section: section.min(other_media.len()),
            other_media,
            ..SessionDescription::offer(local())
        }
    }
}

proptest! {
    #[test]
    fn a_description_survives_the_round_trip(description in any_description()) {
        let read = SessionDescription::parse(SdpType::Offer, &description.to_string()).unwrap();
        prop_assert_eq!(read, description);
    }

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        let _ = SessionDescription::parse(SdpType::Offer, &text);
        let _ = SessionDescription::parse(SdpType::Answer, &format!("v=0\n{text}"));
    }

    #[test]
    fn a_damaged_description_is_read_or_refused(at in 0usize..900, cut in 0usize..40, with in "[\\PC\r\n]{0,20}") {
        let text = aiortc_offer();
        let start = at.min(text.len());
        let end = (start + cut).min(text.len());
        let damaged = format!("{}{with}{}", &text[..start], &text[end..]);
        if let Ok(read) = SessionDescription::parse(SdpType::Offer, &damaged) {
            prop_assert_eq!(SessionDescription::parse(SdpType::Offer, &read.to_string()).is_ok(), true);
        }
    }
}
