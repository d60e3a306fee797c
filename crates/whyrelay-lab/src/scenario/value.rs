//! Values that scenario files write as text: durations, percentages, ports, rates and networks.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use whyrelay_core::host::parse_number;

/// Implements reading and writing as text, and a schema with a pattern; `numbers` may be written without quotes, too.
macro_rules! as_text {
    ($type:ty, $name:literal, $pattern:literal, $about:literal) => {
        as_text!(@ $type, $name, $about, {}, json_schema!({ "type": "string", "pattern": $pattern, "description": $about }));
    };
    ($type:ty, $name:literal, $pattern:literal, $about:literal, numbers) => {
        as_text!(@ $type, $name, $about, {
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Self::Value, E> {
                number.to_string().parse().map_err(E::custom)
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Self::Value, E> {
                number.to_string().parse().map_err(E::custom)
            }
        }, json_schema!({
            "anyOf": [
                { "type": "string", "pattern": $pattern },
                { "type": "integer", "minimum": 0, "maximum": u32::MAX },
            ],
            "description": $about,
        }));
    };
    (@ $type:ty, $name:literal, $about:literal, { $($numbers:item)* }, $schema:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;

                impl Visitor<'_> for Text {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "text. {}", $about)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }

                    $($numbers)*
                }

                deserializer.deserialize_any(Text)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

/// Whether a text is a whole number and nothing else: no sign, no blank.
fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A duration: `20ms`, `1.5s`, `2min`, `500us`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no duration: write a number with us, ms, s or min, as in \"20ms\"");
        let unit = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
        let number = text[..unit].trim_end_matches(' ');
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let number: f64 = number.parse().ok().filter(|_| digits(whole) && digits(part)).ok_or_else(wrong)?;
        let micros = match &text[unit..] {
            "us" => 1.0,
            "ms" => 1e3,
            "s" => 1e6,
            "min" => 60e6,
            _ => return Err(wrong()),
        };
        let micros = number * micros;
        // A day is more than any scenario lasts.
        if micros > 86_400e6 {
            return Err(format!("{text:?} is too long: a day (1440min) is the most"));
        }
        Ok(Self(Duration::from_micros(micros.round() as u64)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        match micros {
            0 => f.write_str("0s"),
            _ if micros.is_multiple_of(1_000_000) => write!(f, "{}s", micros / 1_000_000),
            _ if micros.is_multiple_of(1000) => write!(f, "{}ms", micros / 1000),
            _ => write!(f, "{micros}us"),
        }
    }
}

as_text!(Span, "Duration", r"^[0-9]+(\.[0-9]+)? *(us|ms|s|min)$", "A duration: 20ms, 1.5s, 2min, 500us.");

/// A data rate in bits a second: `10Mbit`, `64kbit`, `1Gbit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(pub u64);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no rate: write a number with bit, kbit, Mbit or Gbit, as in \"10Mbit\"");
        let unit = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
        let number = text[..unit].trim_end_matches(' ');
        let number: u64 = number.parse().ok().filter(|_| digits(number)).ok_or_else(wrong)?;
        let factor = match &text[unit..] {
            "bit" => 1,
            "kbit" => 1000,
            "Mbit" => 1_000_000,
            "Gbit" => 1_000_000_000,
            _ => return Err(wrong()),
        };
        match number.checked_mul(factor) {
            Some(0) => Err(format!("{text:?} lets nothing pass: for a link that carries nothing write loss = 100.0")),
            Some(rate) => Ok(Self(rate)),
            None => Err(format!("{text:?} is more than any link has")),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            rate if rate.is_multiple_of(1_000_000_000) => write!(f, "{}Gbit", rate / 1_000_000_000),
            rate if rate.is_multiple_of(1_000_000) => write!(f, "{}Mbit", rate / 1_000_000),
            rate if rate.is_multiple_of(1000) => write!(f, "{}kbit", rate / 1000),
            rate => write!(f, "{rate}bit"),
        }
    }
}

as_text!(Rate, "Rate", r"^[0-9]+ *(bit|kbit|Mbit|Gbit)$", "Bits a second: 10Mbit, 64kbit, 1Gbit.");

/// Numbers from one to another, both included: ports `3478` or `32768-60999`, user ids `0-0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span32(pub RangeInclusive<u32>);

impl Span32 {
    /// Whether a number is in it.
    pub fn contains(&self, number: u32) -> bool {
        self.0.contains(&number)
    }
}

impl FromStr for Span32 {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no range: write one number or two, as in \"3478\" or \"32768-60999\"");
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| text.parse::<u32>().ok().filter(|_| digits(text)).ok_or_else(wrong);
        let (first, last) = (number(first.trim_end_matches(' '))?, number(last.trim_start_matches(' '))?);
        if first > last { Err(wrong()) } else { Ok(Self(first..=last)) }
    }
}

impl fmt::Display for Span32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.0.start(), self.0.end());
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

as_text!(Span32, "Range", r"^[0-9]+( *- *[0-9]+)?$", "One number or two: 3478, 32768-60999.", numbers);

/// A firewall mark with its mask: `0x1bd00` or `0x10000/0x10000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// What the masked mark is compared with.
    pub value: u32,
    /// The bits that are compared.
    pub mask: u32,
}

impl FromStr for Mark {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no mark: write it as in \"0x1bd00\" or \"0x10000/0x10000\"");
        let (value, mask) = match text.split_once('/') {
            Some((value, mask)) => (parse_number(value), parse_number(mask)),
            None => (parse_number(text), Some(u32::MAX)),
        };
        let (value, mask) = (value.ok_or_else(wrong)?, mask.ok_or_else(wrong)?);
        // Kernels take such bits for a mark that no packet has in one place, and drop them in another.
        if value & !mask != 0 {
            let (whole, inside) = (mask | value, value & mask);
            return Err(format!(
                "{text:?} has bits outside its mask: write \"{value:#x}/{whole:#x}\" or \"{inside:#x}/{mask:#x}\""
            ));
        }
        Ok(Self { value, mask })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.value)?;
        if self.mask == u32::MAX { Ok(()) } else { write!(f, "/{:#x}", self.mask) }
    }
}

as_text!(
    Mark,
    "Mark",
    r"^(0x[0-9a-fA-F]+|[0-9]+)(/(0x[0-9a-fA-F]+|[0-9]+))?$",
    "A mark: 0x1bd00, 0x10000/0x10000.",
    numbers
);

/// An address with the length of its prefix: an interface's own address, or a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    /// The address; for a network the first one.
    pub address: IpAddr,
    /// The length of the prefix in bits.
    pub prefix: u8,
}

impl Cidr {
    /// Every address of a family.
    pub const fn default_of(ipv4: bool) -> Self {
        let address = if ipv4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
        Self { address, prefix: 0 }
    }

    /// One address alone.
    pub const fn host(address: IpAddr) -> Self {
        Self { address, prefix: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// The network that this address is in.
    #[must_use]
    pub fn network(self) -> Self {
        let address = match self.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V4((u32::from(address) & mask).into())
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V6((u128::from(address) & mask).into())
            }
        };
        Self { address, ..self }
    }

    /// Whether an address is in its network.
    pub fn contains(self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && Self { address, prefix: self.prefix }.network() == self.network()
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no network: write it as in \"10.1.0.0/24\" or \"203.0.113.7\"");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = Self::host(address).prefix;
        let prefix = prefix.unwrap_or(most);
        if prefix > most { Err(wrong()) } else { Ok(Self { address, prefix }) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

as_text!(Cidr, "Network", r"^[0-9a-fA-F.:]+(/[0-9]{1,3})?$", "An address or network: 203.0.113.7, 10.1.0.0/24.");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_and_written() {
        for text in ["20ms", "2s", "500us"] {
            assert_eq!(text.parse::<Span>().map(|span| span.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("1.5s".parse(), Ok(Span(Duration::from_millis(1500))));
        assert_eq!("2min".parse(), Ok(Span(Duration::from_secs(120))));
        assert_eq!("30 s".parse(), Ok(Span(Duration::from_secs(30))));
        for text in ["", "5", "ms", "-1s", "+1s", " 1s", ".5s", "5.s", "1h", "99999999999s"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        let said = |text: &str| text.parse::<Span>().err().or_else(|| text.parse::<Rate>().err()).unwrap_or_default();
        assert!(said("99999999999s").contains("a day (1440min) is the most"));
        let said = |text: &str| text.parse::<Rate>().err().unwrap_or_default();
        assert!(said("0bit").contains("loss = 100.0") && said("99999999999999999Gbit").contains("any link"));
        assert_eq!("22 - 25".parse(), Ok(Span32(22..=25)));
        assert!(["+5", " 5", "5 ", "5-+6"].iter().all(|text| text.parse::<Span32>().is_err()));
        assert_eq!("10Mbit".parse(), Ok(Rate(10_000_000)));
        assert!("0bit".parse::<Rate>().is_err() && "10".parse::<Rate>().is_err());
        assert_eq!("0x10000/0x10000".parse(), Ok(Mark { value: 0x10000, mask: 0x10000 }));
        for outside in ["0x3/0x1", "0x1/0", "0x10000/0xffff"] {
            let said = outside.parse::<Mark>().expect_err(outside);
            assert!(said.contains("outside its mask"), "{said}");
            for way_out in said.split('"').filter(|part| part.contains('/') && *part != outside) {
                assert!(way_out.parse::<Mark>().is_ok(), "{way_out} of {said}");
            }
        }
        assert_eq!("0x3/0x1".parse::<Mark>().unwrap_err().matches("0x3/0x3\" or \"0x1/0x1").count(), 1);
        assert_eq!("0x1bd00".parse::<Mark>().map(|mark| mark.to_string()), Ok("0x1bd00".to_owned()));
        assert!("9-3".parse::<Span32>().is_err());
    }

    #[test]
    fn ports_and_marks_may_be_written_as_numbers() {
        #[derive(Debug, PartialEq, Deserialize)]
        struct Written {
            ports: Vec<Span32>,
            mark: Mark,
        }
        let read = |text: &str| toml::from_str::<Written>(text).map_err(|error| error.message().to_owned());
        let one = read("ports = [443, \"3478\", \"5000-5010\"]\nmark = 0x1bd00");
        let ports = ["443", "3478", "5000-5010"].map(|text| text.parse().unwrap()).to_vec();
        assert_eq!(one, Ok(Written { ports, mark: Mark { value: 0x1_BD00, mask: u32::MAX } }));
        for (text, said) in [
            ("ports = [-1]\nmark = 7", "\"-1\" is no range"),
            ("ports = []\nmark = 4294967296", "\"4294967296\" is no mark"),
            ("ports = []\nmark = 7.5", "expected text"),
        ] {
            assert!(read(text).as_ref().is_err_and(|error| error.contains(said)), "{text}: {:?}", read(text));
        }
    }

    #[test]
    fn networks_contain_their_addresses() {
        let net: Cidr = "10.1.2.3/23".parse().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(net.network().to_string(), "10.1.2.0/23");
        assert!(net.contains([10, 1, 3, 255].into()) && !net.contains([10, 1, 4, 0].into()));
        assert!(Cidr::default_of(true).contains([1, 2, 3, 4].into()));
        assert!(!Cidr::default_of(true).contains(IpAddr::V6(Ipv6Addr::LOCALHOST)));
        assert!("10.0.0.0/33".parse::<Cidr>().is_err());
    }
}
