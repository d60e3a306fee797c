//! Nothing from the network panics, and nothing grows without bound.

use proptest::prelude::*;

use super::super::*;
use super::bench::{Bench, SOCKET, TURN, TurnScript, address, config, relayed};
use crate::ice::candidate::CandidateTransport;
use crate::wire::attribute::AttributeType;
use crate::wire::stun::{Class, Message, MessageBuilder, Method};

/// Something that a hostile or broken world does.
#[derive(Clone, Debug)]
enum Act {
    Datagram(Vec<u8>),
    Stream(Vec<u8>),
    /// An answer to the latest request, with attributes of its own.
    Answer {
        class: u8,
        attributes: Vec<(u16, Vec<u8>)>,
    },
    Permission(u8),
    Channel(u8),
    Send(u8, Vec<u8>),
    Fail,
    Reset(u8),
    Wait(u32),
    Close,
}

fn act() -> impl Strategy<Value = Act> {
    let bytes = prop::collection::vec(any::<u8>(), 0..64);
    let kinds = prop::sample::select(vec![
        0x0001, 0x0009, 0x000D, 0x0012, 0x0013, 0x0014, 0x0015, 0x0016, 0x0020, 0x8001, 0x8002, 0x8004, 0x8023, 0x0008,
        0x001C,
    ]);
    let attributes = prop::collection::vec((kinds, prop::collection::vec(any::<u8>(), 0..24)), 0..6);
    prop_oneof![
        bytes.clone().prop_map(Act::Datagram),
        bytes.clone().prop_map(Act::Stream),
        (any::<u8>(), attributes).prop_map(|(class, attributes)| Act::Answer { class, attributes }),
        any::<u8>().prop_map(Act::Permission),
        any::<u8>().prop_map(Act::Channel),
        (any::<u8>(), bytes).prop_map(|(peer, data)| Act::Send(peer, data)),
        Just(Act::Fail),
        (0..4u8).prop_map(Act::Reset),
        (0..400_000u32).prop_map(Act::Wait),
        Just(Act::Close),
    ]
}

fn perform(bench: &mut Bench, act: Act) {
    let relayed = address(super::bench::RELAYED);
    let peer = |number: u8| SocketAddr::from(([203, 0, 113, number], 7000));
    match act {
        Act::Datagram(bytes) => {
            bench.deliver(SOCKET, TURN, &bytes);
        }
        Act::Stream(bytes) => {
            bench.input(Input::StreamData { id: StreamId(0), bytes: &bytes });
        }
        Act::Answer { class, attributes } => {
            let Some(sent) = bench.transmits().last().map(|sent| (*sent).clone()) else { return };
            let Ok(request) = Message::decode(&sent.bytes) else { return };
            let class = if class % 2 == 0 { Class::Success } else { Class::Error };
            let builder = MessageBuilder::new(class, request.method, request.transaction);
            let add =
                |builder: MessageBuilder, (kind, value): (u16, Vec<u8>)| builder.attribute(AttributeType(kind), &value);
            let bytes = attributes.into_iter().fold(builder, add).build();
            match sent.stream {
                None => bench.input(Input::Datagram { local: sent.local, remote: sent.remote, bytes: &bytes }),
                Some(id) => bench.input(Input::StreamData { id, bytes: &bytes }),
            };
        }
        Act::Permission(number) => {
            bench.input(Input::NeedPermission { relayed, peer: peer(number).ip() });
        }
        Act::Channel(number) => {
            bench.input(Input::BindChannel { relayed, peer: peer(number) });
        }
        Act::Send(number, data) => {
            bench.input(Input::SendToPeer { relayed, peer: peer(number), data: &data });
        }
        Act::Fail => {
            bench.input(Input::SendFailed { local: address(SOCKET), remote: address(TURN), errno: 1 });
        }
        Act::Reset(id) => {
            bench.input(Input::StreamClosed { id: StreamId(u64::from(id)), detail: "reset" });
        }
        Act::Wait(milliseconds) => bench.run_for(u64::from(milliseconds)),
        Act::Close => {
            bench.input(Input::Close);
        }
    }
}

proptest! {
    #[test]
    fn a_hostile_world_changes_no_invariant(acts in prop::collection::vec(act(), 0..60), seed: u64, loss in 0..60u64) {
        let mut bench = Bench::seeded(
            config(&["stun:198.51.100.1", "turn:198.51.100.2", "turn:198.51.100.2?transport=tcp"]),
            seed,
        );
        bench.loss = loss;
        bench.turn(TURN, TurnScript::default());
        bench.socket(SOCKET, "eth0", CandidateTransport::Udp);
        bench.complete();
        for act in acts {
            perform(&mut bench, act);
        }
        bench.run_for(20_000);
        let ends = bench.outputs.iter().filter(|(_, output)| *output == Output::EndOfCandidates).count();
        prop_assert!(ends <= 1);
        bench.input(Input::Close);
        bench.run_for(1100);
        let closed = bench.outputs.iter().filter(|(_, output)| *output == Output::Closed).count();
        prop_assert_eq!(closed, 1);
        let sent = bench.transmits().len();
        bench.run_for(1_000_000);
        prop_assert_eq!(bench.transmits().len(), sent);
    }

    #[test]
    fn a_gathered_allocation_survives_any_datagram(datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..40)) {
        let mut bench = relayed(TurnScript::default());
        for bytes in &datagrams {
            bench.deliver(SOCKET, TURN, bytes);
        }
        let relayed = address(super::bench::RELAYED);
        let peer = "203.0.113.9".parse().unwrap();
        bench.input(Input::NeedPermission { relayed, peer });
        bench.run_for(100);
        let granted = bench.has(&Output::PermissionGranted { relayed, peer });
        prop_assert!(granted);
        prop_assert_eq!(bench.script(TURN).count(Method::CREATE_PERMISSION), 1);
    }
}
