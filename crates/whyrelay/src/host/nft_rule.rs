//! One nftables rule: its expressions read into words, and whether it can touch a packet of the session.

use std::collections::BTreeMap;

use super::legacy_rule::connection_mark;
use super::netlink::{attributes, big_endian, text};
use super::nft_condition::{Comparison, Condition, Field, MARK, Order, Packet, ct, meta, payload};

/// Most expressions of a rule that are read.
const MAX_EXPRESSIONS: usize = 64;

/// What a rule says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) words: Vec<String>,
    pub(super) verdict: Option<&'static str>,
    pub(super) target: Option<String>,
    pub(super) sets_mark: bool,
    /// It changes addresses or ports.
    pub(super) translates: bool,
    pub(super) packets: Option<u64>,
    pub(super) conditions: Vec<Condition>,
}

/// What is in a register.
#[derive(Clone, Debug)]
struct Loaded {
    field: Field,
    mask: Option<Vec<u8>>,
    order: Order,
}

impl Loaded {
    fn new(field: Field) -> Self {
        Self { order: field.order(), field, mask: None }
    }
}

impl Rule {
    /// Reads the list of expressions (`NFTA_RULE_EXPRESSIONS`).
    pub(super) fn read(expressions: &[u8]) -> Self {
        let mut rule = Self::default();
        let mut registers: BTreeMap<u64, Loaded> = BTreeMap::new();
        for (_, expression) in attributes(expressions).take(MAX_EXPRESSIONS) {
            let (mut name, mut data) = (String::new(), &[][..]);
            for (kind, value) in attributes(expression) {
                match kind {
                    1 => name = text(value),
                    2 => data = value,
                    _ => {}
                }
            }
            let fields: BTreeMap<u16, &[u8]> = attributes(data).collect();
            rule.take(&name, &fields, &mut registers);
        }
        rule
    }

    /// Whether it is the same rule as another, whatever the two have counted.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        (&self.words, self.verdict, &self.target) == (&other.words, other.verdict, &other.target)
    }

    /// Whether no condition that we can judge speaks against the packet.
    pub(super) fn can_touch(&self, packet: &Packet) -> bool {
        self.conditions.iter().all(|condition| condition.holds(packet).unwrap_or(true))
    }

    fn take(&mut self, name: &str, fields: &BTreeMap<u16, &[u8]>, registers: &mut BTreeMap<u64, Loaded>) {
        let number = |kind: u16| fields.get(&kind).and_then(|value| big_endian(value));
        match name {
            "meta" => match (number(1), number(2), number(3)) {
                (Some(to), Some(key), None) => {
                    registers.insert(to, Loaded::new(meta(key)));
                }
                (None, Some(MARK), Some(_)) => {
                    self.sets_mark = true;
                    self.words.push("meta mark set".into());
                }
                (None, Some(key), Some(_)) => self.words.push(format!("meta {key} set")),
                _ => {}
            },
            "payload" => {
                let (Some(base), Some(offset), Some(length)) = (number(2), number(3), number(4)) else { return };
                match number(1) {
                    Some(to) => {
                        registers.insert(to, Loaded::new(payload(base, offset, length)));
                    }
                    None => self.words.push(format!("@{base},{offset},{length} set")),
                }
            }
            "ct" => {
                let words = number(2).map_or_else(|| "ct".into(), |key| format!("ct {}", ct(key)));
                match number(1) {
                    Some(to) => {
                        registers.insert(to, Loaded::new(Field::Other(words)));
                    }
                    None => self.words.push(format!("{words} set")),
                }
            }
            "bitwise" => {
                let mask = fields.get(&4).and_then(|data| data_value(data)).map(<[u8]>::to_vec);
                if let (Some(from), Some(to)) = (number(1), number(2))
                    && let Some(loaded) = registers.get(&from).cloned()
                {
                    registers.insert(to, Loaded { mask, ..loaded });
                }
            }
            "byteorder" => {
                if let (Some(from), Some(to)) = (number(1), number(2))
                    && let Some(loaded) = registers.get(&from).cloned()
                {
                    // `NFT_BYTEORDER_NTOH` or `NFT_BYTEORDER_HTON`.
                    let order = if number(3) == Some(0) { Order::Host } else { Order::Network };
                    registers.insert(to, Loaded { order, ..loaded });
                }
            }
            "cmp" => {
                let loaded = number(1).and_then(|from| registers.get(&from).cloned());
                let value = fields.get(&3).and_then(|data| data_value(data));
                let (Some(loaded), Some(value)) = (loaded, value) else { return };
                let comparison = match number(2) {
                    Some(1) => Comparison::Unequal,
                    Some(2) => Comparison::Less,
                    Some(3) => Comparison::LessOrEqual,
                    Some(4) => Comparison::Greater,
                    Some(5) => Comparison::GreaterOrEqual,
                    _ => Comparison::Equal,
                };
                let Loaded { field, mask, order } = loaded;
                let condition = Condition { field, mask, order, comparison, value: value.to_vec() };
                self.words.push(condition.words());
                self.conditions.push(condition);
            }
            "lookup" => {
                let set = fields.get(&1).map(|value| text(value)).unwrap_or_default();
                let loaded = number(2).and_then(|from| registers.get(&from));
                let what = loaded.map_or_else(|| "?".into(), |loaded| loaded.field.words());
                self.words.push(format!("{what} @{set}"));
                if fields.contains_key(&3) {
                    // A verdict map may do anything.
                    self.verdict.get_or_insert("jump");
                }
            }
            "range" => {
                let loaded = number(1).and_then(|from| registers.get(&from));
                let what = loaded.map_or_else(|| "?".into(), |loaded| loaded.field.words());
                self.words.push(format!("{what} range"));
            }
            "counter" => self.packets = number(2),
            "immediate" => self.take_immediate(fields),
            "reject" => {
                self.verdict = Some("reject");
                self.words.push("reject".into());
            }
            "queue" => {
                self.verdict = Some("queue");
                self.words.push("queue".into());
            }
            "masq" | "nat" | "redir" | "tproxy" => {
                self.translates = true;
                self.words.push(if name == "masq" { "masquerade".into() } else { name.into() });
            }
            "target" => {
                let name = fields.get(&1).map(|value| text(value)).unwrap_or_default();
                let revision = number(2).and_then(|revision| u8::try_from(revision).ok()).unwrap_or(0);
                self.take_target(&name, revision, fields.get(&3).copied().unwrap_or_default());
            }
            "match" => {
                let name = fields.get(&1).map(|value| text(value)).unwrap_or_default();
                self.words.push(format!("xt {name}"));
            }
            other => {
                // What was in its register is there no more.
                let to = match other {
                    "fib" | "rt" | "numgen" | "exthdr" | "osf" | "xfrm" => number(1),
                    "hash" | "socket" | "tunnel" => number(2),
                    _ => None,
                };
                match to {
                    Some(to) => _ = registers.insert(to, Loaded::new(Field::Other(other.into()))),
                    None => self.words.push(other.into()),
                }
            }
        }
    }

    fn take_immediate(&mut self, fields: &BTreeMap<u16, &[u8]>) {
        let Some(data) = fields.get(&2) else { return };
        let Some((_, verdict)) = attributes(data).find(|(kind, _)| *kind == 2) else { return };
        for (kind, value) in attributes(verdict) {
            match (kind, value.first_chunk::<4>()) {
                (1, Some(code)) => {
                    // NF_DROP and NF_ACCEPT of linux/netfilter.h, NFT_JUMP and the like of linux/nf_tables.h.
                    self.verdict = match i32::from_be_bytes(*code) {
                        0 => Some("drop"),
                        1 => Some("accept"),
                        3 => Some("queue"),
                        -3 => Some("jump"),
                        -4 => Some("goto"),
                        -5 => Some("return"),
                        _ => None,
                    };
                }
                (2, _) => self.target = Some(text(value)),
                _ => {}
            }
        }
        let words = [self.verdict, self.target.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" ");
        self.words.push(words);
    }

    /// A target of iptables.
    fn take_target(&mut self, name: &str, revision: u8, data: &[u8]) {
        let mut options = String::new();
        match name {
            "REJECT" => self.verdict = Some("reject"),
            "DROP" => self.verdict = Some("drop"),
            "MARK" => self.sets_mark = true,
            "CONNMARK" => {
                let what = connection_mark(revision, data);
                (self.sets_mark, options) = (self.sets_mark || what.sets_packet(), what.words());
            }
            "MASQUERADE" | "SNAT" | "DNAT" | "REDIRECT" | "NETMAP" => self.translates = true,
            _ => {}
        }
        self.words.push(format!("{name}{options}"));
    }
}

/// `NFTA_DATA_VALUE` inside of nested data.
fn data_value(data: &[u8]) -> Option<&[u8]> {
    attributes(data).find(|(kind, _)| *kind == 1).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::super::netlink::push_attribute;
    use super::*;

    fn nested(fields: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        fields.iter().for_each(|(kind, value)| push_attribute(&mut bytes, *kind, value));
        bytes
    }

    /// One expression of a rule, as the kernel sends it.
    fn expression(name: &str, fields: &[(u16, &[u8])]) -> Vec<u8> {
        nested(&[(1, format!("{name}\0").as_bytes()), (2, &nested(fields))])
    }

    fn words(expressions: &[Vec<u8>]) -> String {
        let list: Vec<(u16, &[u8])> = expressions.iter().map(|expression| (1, expression.as_slice())).collect();
        Rule::read(&nested(&list)).words.join(" ")
    }

    fn number(number: u32) -> [u8; 4] {
        number.to_be_bytes()
    }

    fn load(kind: &str, key: u32) -> Vec<u8> {
        match kind {
            "meta" => expression("meta", &[(1, &number(1)), (2, &number(key))]),
            _ => expression("ct", &[(1, &number(1)), (2, &number(key))]),
        }
    }

    fn mask(mask: &[u8]) -> Vec<u8> {
        expression("bitwise", &[(1, &number(1)), (2, &number(1)), (4, &nested(&[(1, mask)]))])
    }

    fn compare(operation: u32, value: &[u8]) -> Vec<u8> {
        expression("cmp", &[(1, &number(1)), (2, &number(operation)), (3, &nested(&[(1, value)]))])
    }

    #[test]
    fn what_the_host_keeps_reads_as_nft_lists_it() {
        let host = u32::to_ne_bytes;
        let cases = [
            ("meta mark 0x0001bd00", vec![load("meta", 3), compare(0, &host(0x1bd00))]),
            (
                "meta mark & 0x00008000 == 0x00008000",
                vec![load("meta", 3), mask(&host(0x8000)), compare(0, &host(0x8000))],
            ),
            (
                "meta mark & 0x0000ff00 != 0x00000100",
                vec![load("meta", 3), mask(&host(0xff00)), compare(1, &host(0x100))],
            ),
            ("ct mark & 0x000000ff == 0x00000010", vec![load("ct", 3), mask(&host(0xff)), compare(0, &host(0x10))]),
            ("ct state established,related", vec![load("ct", 0), mask(&host(6)), compare(1, &host(0))]),
            ("meta skuid 1000", vec![load("meta", 10), compare(0, &host(1000))]),
            (
                "meta mark > 0x00000005",
                vec![
                    load("meta", 3),
                    expression("byteorder", &[(1, &number(1)), (2, &number(1)), (3, &number(1))]),
                    compare(4, &number(5)),
                ],
            ),
        ];
        for (wanted, expressions) in cases {
            assert_eq!(words(&expressions), wanted);
        }
    }

    #[test]
    fn only_a_mark_that_is_restored_is_the_packet_s_own() {
        let target = |mode: u8| {
            let mut data: Vec<u8> = [0, u32::MAX, 0xFF].iter().flat_map(|number: &u32| number.to_ne_bytes()).collect();
            data.push(mode);
            let expression = expression("target", &[(1, b"CONNMARK\0"), (2, &number(1)), (3, &data)]);
            Rule::read(&nested(&[(1, &expression)]))
        };
        for (mode, words, sets_mark) in [
            (0, "CONNMARK --set-xmark 0x0/0xffffffff", false),
            (1, "CONNMARK --save-mark --nfmask 0xff --ctmask 0xffffffff", false),
            (2, "CONNMARK --restore-mark --nfmask 0xff --ctmask 0xffffffff", true),
            (9, "CONNMARK", true),
        ] {
            let rule = target(mode);
            assert_eq!((rule.words.join(" ").as_str(), rule.sets_mark), (words, sets_mark));
        }
    }

    #[test]
    fn what_stands_in_the_packet_is_in_network_order() {
        let payload = |base, offset, length| {
            let fields = [(1, number(1)), (2, number(base)), (3, number(offset)), (4, number(length))];
            expression("payload", &fields.each_ref().map(|(kind, value)| (*kind, value.as_slice())))
        };
        let network = [payload(1, 12, 4), mask(&[255, 240, 0, 0]), compare(0, &[10, 16, 0, 0])];
        assert_eq!(words(&network), "ip saddr 10.16.0.0/12");
        assert_eq!(words(&[payload(2, 2, 2), compare(0, &3478_u16.to_be_bytes())]), "th dport 3478");
        let fragment = [payload(1, 6, 2), mask(&[0x1f, 0xff]), compare(1, &[0, 0])];
        assert_eq!(words(&fragment), "@1,6,2 & 0x1fff != 0x0000");
    }

    #[test]
    fn a_register_that_was_overwritten_says_nothing_of_an_address() {
        let payload = [(1, number(1)), (2, number(1)), (3, number(12)), (4, number(4))];
        let rule = [
            expression("payload", &payload.each_ref().map(|(kind, value)| (*kind, value.as_slice()))),
            compare(0, &[192, 0, 2, 1]),
            expression("fib", &[(1, &number(1)), (2, &number(3))]),
            compare(0, &2_u32.to_ne_bytes()),
        ];
        assert_eq!(words(&rule), "ip saddr 192.0.2.1 fib 0x00000002");
    }
}
