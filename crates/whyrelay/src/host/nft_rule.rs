//! One nftables rule: its expressions read into words, and whether it can touch a packet of the session.

use std::collections::BTreeMap;

use super::legacy_rule::{OTHER_VERDICT, connection_mark, goes_on, translates};
use super::netlink::{attributes, big_endian, text};
use super::nft_condition::{Comparison, Condition, Packet, as_read};
use super::nft_field::{ADDRESS_TYPES, Field, Kind, MARK, Order, address, ct, meta, payload, raw};
use super::nft_words::{Fields, Piece, Register, family_of, fib, limit, log, nat, queue, reject, words};

/// Families of tables: NFPROTO_IPV4, NFPROTO_IPV6.
const IPV4: u8 = 2;
const IPV6: u8 = 10;

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
    xor: Option<Vec<u8>>,
    order: Order,
    /// What a rule itself put there.
    data: Option<Vec<u8>>,
}

impl Loaded {
    fn new(field: Field) -> Self {
        Self { order: field.order(), field, mask: None, xor: None, data: None }
    }

    /// What something is set to.
    fn as_set(&self, field: &Field) -> String {
        match (&self.data, &self.mask) {
            (Some(data), _) => field.value(&as_read(data, field.order()), None),
            (None, None) => self.field.words(None),
            (None, Some(mask)) => {
                // The kernel ands and xors; nft says what it wrote: which bits are kept, turned over and set.
                let zero = vec![0; mask.len()];
                let xor = self.xor.as_ref().unwrap_or(&zero);
                let set: Vec<u8> = mask.iter().zip(xor).map(|(mask, xor)| !mask & xor).collect();
                let turned: Vec<u8> = mask.iter().zip(xor).map(|(mask, xor)| mask & xor).collect();
                let kept: Vec<u8> = mask.iter().zip(&set).map(|(mask, set)| mask | set).collect();
                let value = |bytes: &[u8]| field.value(&as_read(bytes, self.order), None);
                let mut words = self.field.words(None);
                for (sign, bytes, says_nothing) in [("&", &kept, 0xFF), ("^", &turned, 0), ("|", &set, 0)] {
                    if bytes.iter().any(|byte| *byte != says_nothing) {
                        words.push_str(&format!(" {sign} {}", value(bytes)));
                    }
                }
                words
            }
        }
    }
}

/// A rule while its expressions are read.
#[derive(Debug, Default)]
struct Reading {
    /// The family of its table.
    family: u8,
    /// Whether the packet is IPv6 by what was asked so far.
    ipv6: Option<bool>,
    registers: BTreeMap<u64, Loaded>,
    /// Registers that were filled and not yet looked at.
    fresh: Vec<u64>,
    pieces: Vec<Piece>,
}

impl Reading {
    fn load(&mut self, to: u64, loaded: Loaded) {
        self.registers.insert(to, loaded);
        self.fresh.push(to);
    }

    fn say(&mut self, words: impl Into<String>) {
        self.pieces.push(Piece::Said(words.into()));
    }

    /// What is looked at from a register on: everything that was loaded together.
    fn looked_at(&mut self, from: u64) -> Vec<Field> {
        let fresh = std::mem::take(&mut self.fresh);
        let start = fresh.iter().position(|register| *register == from);
        let together = start.map_or_else(|| vec![from], |start| fresh[start..].to_vec());
        let fields = together.iter().filter_map(|register| self.registers.get(register));
        fields.map(|loaded| loaded.field.clone()).collect()
    }

    fn set(&mut self, field: &Field, from: u64) {
        let to = self.registers.get(&from).map_or_else(|| "?".to_owned(), |loaded| loaded.as_set(field));
        self.fresh.clear();
        self.say(format!("{} set {to}", field.words(None)));
    }
}

impl Rule {
    /// Reads the list of expressions (`NFTA_RULE_EXPRESSIONS`) of a rule in a table of a family.
    pub(super) fn read(family: u8, expressions: &[u8]) -> Self {
        let mut rule = Self::default();
        let ipv6 = match family {
            IPV4 => Some(false),
            IPV6 => Some(true),
            _ => None,
        };
        let mut reading = Reading { family, ipv6, ..Reading::default() };
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
            rule.take(&name, &fields, &mut reading);
        }
        rule.words = words(&reading.pieces);
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

    fn take(&mut self, name: &str, fields: &Fields<'_>, reading: &mut Reading) {
        let number = |kind: u16| fields.get(&kind).and_then(|value| big_endian(value));
        match name {
            "meta" => match (number(1), number(2), number(3)) {
                (Some(to), Some(key), None) => reading.load(to, Loaded::new(meta(key))),
                (None, Some(key), Some(from)) => {
                    self.sets_mark |= key == MARK;
                    reading.set(&meta(key), from);
                }
                _ => {}
            },
            "payload" => {
                let (Some(base), Some(offset), Some(length)) = (number(2), number(3), number(4)) else { return };
                let field = payload(base, offset, length, reading.ipv6);
                match (number(1), number(5)) {
                    (Some(to), _) => reading.load(to, Loaded::new(field)),
                    (None, Some(from)) => reading.set(&raw(base, offset, length), from),
                    (None, None) => {}
                }
            }
            "ct" => {
                let Some(key) = number(2) else { return reading.say("ct") };
                match (number(1), number(4)) {
                    (Some(to), _) => reading.load(to, Loaded::new(ct(key, number(3)))),
                    (None, Some(from)) => reading.set(&ct(key, number(3)), from),
                    (None, None) => {}
                }
            }
            "bitwise" | "byteorder" => self.take_change(name, fields, reading),
            "cmp" | "range" | "lookup" => self.take_match(name, fields, reading),
            "counter" => self.packets = number(2),
            "immediate" => match number(1) {
                Some(to) if to != 0 => {
                    let data = fields.get(&2).and_then(|data| data_value(data)).map(<[u8]>::to_vec);
                    reading.load(to, Loaded { data, ..Loaded::new(Field::other("?", Kind::Hexadecimal)) });
                }
                _ => self.take_verdict(fields, reading),
            },
            "reject" => {
                self.verdict = Some("reject");
                reading.pieces.push(reject(fields, reading.family, reading.ipv6));
            }
            "queue" => {
                self.verdict = Some("queue");
                reading.say(queue(fields));
            }
            "masq" | "nat" | "redir" | "tproxy" => {
                self.translates = true;
                let words = nat(name, fields, reading.family, |from, kind| {
                    let loaded = reading.registers.get(&from)?;
                    Some(match (&loaded.data, kind) {
                        (Some(data), Register::Address { ipv6 }) => address(data, ipv6),
                        (Some(data), Register::Port) => big_endian(data.get(..2)?)?.to_string(),
                        (None, _) => loaded.field.words(None),
                    })
                });
                reading.say(words);
            }
            "limit" => reading.say(limit(fields)),
            "log" => reading.say(log(fields)),
            "connlimit" => {
                let over = if number(2).unwrap_or(0) & 1 == 1 { "over " } else { "" };
                reading.say(format!("ct count {over}{}", number(1).unwrap_or(0)));
            }
            "target" => {
                let name = fields.get(&1).map(|value| text(value)).unwrap_or_default();
                let revision = number(2).and_then(|revision| u8::try_from(revision).ok()).unwrap_or(0);
                let words = self.take_target(&name, revision, fields.get(&3).copied().unwrap_or_default());
                reading.say(words);
            }
            "match" => {
                let name = fields.get(&1).map(|value| text(value)).unwrap_or_default();
                reading.say(format!("xt {name}"));
            }
            "fib" => {
                let (words, asks_presence) = fib(fields);
                let kind = match number(2) {
                    Some(3) => Kind::Named(&ADDRESS_TYPES),
                    Some(2) => Kind::Interface,
                    _ if asks_presence => Kind::Named(&[(0, "missing"), (1, "exists")]),
                    _ => Kind::Index,
                };
                if let Some(to) = number(1) {
                    reading.load(to, Loaded::new(Field::other(words, kind)));
                }
            }
            "numgen" => {
                let how = if number(3) == Some(1) { "random" } else { "inc" };
                let words = format!("numgen {how} mod {}", number(2).unwrap_or(0));
                if let Some(to) = number(1) {
                    reading.load(to, Loaded::new(Field::other(words, Kind::Number)));
                }
            }
            other => {
                // What was in its register is there no more.
                let to = match other {
                    "rt" | "exthdr" | "osf" | "xfrm" => number(1),
                    "hash" | "socket" | "tunnel" => number(2),
                    _ => None,
                };
                match to {
                    Some(to) => reading.load(to, Loaded::new(Field::other(other, Kind::Hexadecimal))),
                    None => reading.say(other),
                }
            }
        }
    }

    /// What changes what a register holds.
    fn take_change(&self, name: &str, fields: &Fields<'_>, reading: &mut Reading) {
        let number = |kind: u16| fields.get(&kind).and_then(|value| big_endian(value));
        let (Some(from), Some(to)) = (number(1), number(2)) else { return };
        let Some(loaded) = reading.registers.get(&from).cloned() else { return };
        let loaded = if name == "byteorder" {
            // `NFT_BYTEORDER_NTOH` or `NFT_BYTEORDER_HTON`.
            Loaded { order: if number(3) == Some(0) { Order::Host } else { Order::Network }, ..loaded }
        } else {
            let data = |kind| fields.get(&kind).and_then(|data| data_value(data)).map(<[u8]>::to_vec);
            Loaded { mask: data(4), xor: data(5), ..loaded }
        };
        reading.registers.insert(to, loaded);
    }

    /// What a packet must be like.
    fn take_match(&mut self, name: &str, fields: &Fields<'_>, reading: &mut Reading) {
        let number = |kind: u16| fields.get(&kind).and_then(|value| big_endian(value));
        let data = |kind| fields.get(&kind).and_then(|data| data_value(data));
        let condition = |from: u64, comparison, value: &[u8]| {
            let Loaded { field, mask, order, .. } = reading.registers.get(&from)?.clone();
            Some(Condition { field, mask, order, comparison, value: value.to_vec() })
        };
        match name {
            "cmp" => {
                let (Some(from), Some(value)) = (number(1), data(3)) else { return };
                let comparison = match number(2) {
                    Some(1) => Comparison::Unequal,
                    Some(2) => Comparison::Less,
                    Some(3) => Comparison::LessOrEqual,
                    Some(4) => Comparison::Greater,
                    Some(5) => Comparison::GreaterOrEqual,
                    _ => Comparison::Equal,
                };
                let Some(condition) = condition(from, comparison, value) else { return };
                reading.fresh.clear();
                reading.ipv6 = family_of(&condition).or(reading.ipv6);
                reading.pieces.push(Piece::Match(condition.clone()));
                self.conditions.push(condition);
            }
            "range" => {
                let (Some(from), Some(low), Some(high)) = (number(1), data(3), data(4)) else { return };
                let is_in = number(2) != Some(1);
                let ends =
                    (condition(from, Comparison::GreaterOrEqual, low), condition(from, Comparison::LessOrEqual, high));
                let (Some(low), Some(high)) = ends else { return };
                reading.fresh.clear();
                let sign = if is_in { "" } else { "!= " };
                let words = format!("{sign}{}-{}", low.value_words(None), high.value_words(None));
                reading.pieces.push(Piece::Range(low.field.clone(), words));
                if is_in {
                    self.conditions.extend([low, high]);
                }
            }
            _ => {
                let set = fields.get(&1).map(|value| text(value)).unwrap_or_default();
                let Some(from) = number(2) else { return };
                let of = reading.looked_at(from);
                match number(3) {
                    None => {
                        let sign = if number(5).unwrap_or(0) & 1 == 1 { "!= " } else { "" };
                        reading.pieces.push(Piece::Lookup(of, format!("{sign}@{set}")));
                    }
                    Some(0) => {
                        reading.pieces.push(Piece::Lookup(of, format!("vmap @{set}")));
                        // A verdict map may do anything.
                        self.verdict.get_or_insert("jump");
                    }
                    Some(to) => {
                        let names: Vec<String> = of.iter().map(|field| field.words(None)).collect();
                        let words = format!("{} map @{set}", names.join(" . "));
                        reading.load(to, Loaded::new(Field::other(words, Kind::Hexadecimal)));
                    }
                }
            }
        }
    }

    fn take_verdict(&mut self, fields: &Fields<'_>, reading: &mut Reading) {
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
        reading.say(words);
    }

    /// A target of iptables.
    fn take_target(&mut self, name: &str, revision: u8, data: &[u8]) -> String {
        let mut options = String::new();
        match name {
            "REJECT" => self.verdict = Some("reject"),
            "DROP" => self.verdict = Some("drop"),
            "MARK" => self.sets_mark = true,
            "CONNMARK" => {
                let what = connection_mark(revision, data);
                (self.sets_mark, options) = (self.sets_mark || what.sets_packet(), what.words());
            }
            "QUEUE" | "NFQUEUE" => self.verdict = Some("queue"),
            other if translates(other) => self.translates = true,
            other if goes_on(other) => {}
            _ => self.verdict = Some(OTHER_VERDICT),
        }
        format!("{name}{options}")
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
        Rule::read(IPV4, &nested(&list)).words.join(" ")
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
            Rule::read(IPV4, &nested(&[(1, &expression)]))
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
    fn a_target_of_iptables_decides_translates_or_lets_the_packet_go_on() {
        for (name, verdict, translates) in [
            ("NFQUEUE", Some("queue"), false),
            ("REJECT", Some("reject"), false),
            ("TPROXY", None, true),
            ("MASQUERADE", None, true),
            ("LOG", None, false),
            ("TCPMSS", None, false),
            ("ANYTHING", Some("other"), false),
        ] {
            let expression = expression("target", &[(1, format!("{name}\0").as_bytes()), (2, &number(1))]);
            let rule = Rule::read(IPV4, &nested(&[(1, &expression)]));
            assert_eq!((rule.verdict, rule.translates), (verdict, translates), "{name}");
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
        assert_eq!(words(&fragment), "ip frag-off & 8191 != 0");
    }

    #[test]
    fn a_register_that_was_overwritten_says_nothing_of_an_address() {
        let payload = [(1, number(1)), (2, number(1)), (3, number(12)), (4, number(4))];
        let rule = [
            expression("payload", &payload.each_ref().map(|(kind, value)| (*kind, value.as_slice()))),
            compare(0, &[192, 0, 2, 1]),
            expression("fib", &[(1, &number(1)), (2, &number(3)), (3, &number(2))]),
            compare(0, &2_u32.to_ne_bytes()),
        ];
        assert_eq!(words(&rule), "ip saddr 192.0.2.1 fib daddr type local");
    }
}
