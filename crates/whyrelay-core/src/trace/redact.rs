//! Redaction: a recording without the addresses, names and ids of those who made it.
//!
//! Pseudonyms depend on the original and on a secret that both sides share, so that the two recordings still fit
//! together. What a diagnosis needs stays: address family, the class of an address (private, carrier-grade, public …),
//! which addresses share a network or are covered by a route (see `ip`), lengths of prefixes, ports, transaction ids,
//! times, lengths. Networks are replaced as addresses are: neither an address nor the prefix of a network that is not
//! everybody's survives. `127.0.0.1`, `::1`, the unspecified, multicast
//! and broadcast addresses and `localhost` name nobody and stay. The secret itself must not be in the recording.

mod bytes;
mod ip;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;

use super::event::{Event, EventKind};

/// Most pseudonyms that are remembered; beyond it they are computed again.
const MAX_REMEMBERED: usize = 100_000;

/// Shortest name that is looked for inside of other text: shorter ones are part of too many words.
const MIN_NAME: usize = 3;

/// Replaces addresses, names and ids by pseudonyms.
pub struct Redactor {
    secret: Vec<u8>,
    addresses: BTreeMap<IpAddr, IpAddr>,
    /// Names seen in their own fields, which may come again inside of other text.
    names: BTreeMap<String, String>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redactor(hidden)")
    }
}

/// Redacts a whole recording. Better than one event after the other: names that come in free text before they come in
/// their own field are found, too.
pub fn redact(events: &[Event], secret: &[u8]) -> Vec<Event> {
    let mut redactor = Redactor::new(secret);
    for event in events {
        redactor.event(event);
    }
    events.iter().map(|event| redactor.event(event)).collect()
}

impl Redactor {
    /// Pseudonyms of a session: `secret` is shared by both sides and unknown to those who get the recording.
    pub fn new(secret: &[u8]) -> Self {
        Self { secret: secret.to_vec(), addresses: BTreeMap::new(), names: BTreeMap::new() }
    }

    /// The event without originals.
    pub fn event(&mut self, event: &Event) -> Event {
        let redacted = serde_json::to_value(&event.kind).ok().and_then(|mut value| {
            let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
            // Twice: a name may stand in free text ahead of its own field, in the same event.
            self.value(&kind, "", &mut value.clone());
            self.value(&kind, "", &mut value);
            serde_json::from_value::<EventKind>(value).ok()
        });
        // What cannot be redacted is left out: a gap is better than a leak.
        let mut kind = redacted.unwrap_or(EventKind::EventsDropped { count: 1 });
        if let EventKind::RecordingStarted { options, .. } = &mut kind {
            // So says the recording itself, whoever asked for it.
            options.redacted = true;
        }
        if let EventKind::Datagram(datagram) | EventKind::ProbeDatagram(datagram) = &mut kind {
            let data = self.bytes(&datagram.data, 0);
            let length = i64::from(datagram.length) + data.len() as i64 - datagram.data.len() as i64;
            datagram.length = u32::try_from(length).unwrap_or_default();
            datagram.data = data;
        }
        Event { kind, ..event.clone() }
    }

    /// The redacted event, with the names replaced too that have become known since. `None`: it holds none of them.
    pub fn again(&self, event: &Event) -> Option<Event> {
        let mut value = serde_json::to_value(&event.kind).ok()?;
        let mut found = false;
        self.later_names("", &mut value, &mut found);
        let kind = if found { serde_json::from_value::<EventKind>(value) } else { return None };
        let kind = kind.unwrap_or(EventKind::EventsDropped { count: 1 });
        Some(Event { kind, ..event.clone() })
    }

    fn later_names(&self, key: &str, value: &mut Value, found: &mut bool) {
        match value {
            Value::Object(fields) => fields.iter_mut().for_each(|(key, value)| self.later_names(key, value, found)),
            Value::Array(items) => items.iter_mut().for_each(|item| self.later_names(key, item, found)),
            Value::String(text) if !is_word_of_ours(key) => {
                let replaced = self.known_names(text);
                *found |= replaced != *text;
                *text = replaced;
            }
            _ => {}
        }
    }

    /// The pseudonym of an address with its port.
    pub fn socket(&mut self, address: SocketAddr) -> SocketAddr {
        let mut redacted = address;
        redacted.set_ip(self.address(address.ip()));
        redacted
    }

    fn value(&mut self, kind: &str, key: &str, value: &mut Value) {
        match value {
            Value::Object(fields) => fields.iter_mut().for_each(|(key, value)| self.value(kind, key, value)),
            Value::Array(items) if key == "extensions" => items.iter_mut().for_each(|item| self.extension(item)),
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(kind, key, item)),
            Value::String(text) => {
                let redacted = self.field(kind, key, text);
                *text = redacted;
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn field(&mut self, kind: &str, key: &str, text: &str) -> String {
        match key {
            // Sentences of ours, with whom they are about.
            "what" | "why" if kind == "not-measured" => self.text(text),
            _ if is_word_of_ours(key) => text.to_owned(),
            "device" | "in_device" | "out_device" | "bound_device" | "master" => self.interface(text),
            "mac" => self.name("mac", text),
            "netplan" => self.interface(text),
            "profile" => self.name("profile", text),
            "program" => self.tokens(text),
            "id" => self.name("peer", text),
            "ufrag" => self.name("u", text),
            "foundation" => {
                let parts: Vec<_> = text.split(':').map(|part| self.hash_text("foundation", part, 8)).collect();
                parts.join(":")
            }
            "fingerprint" | "found" => self.fingerprint(text),
            "interface" | "interfaces" | "excluded_interfaces" => self.interface(text),
            "name" if kind == "interface" => self.interface(text),
            "name" => self.host(text),
            "server" | "url" => self.url(text),
            "line" => self.candidate_line(text),
            _ => self.text(text),
        }
    }

    /// An extension attribute of a candidate: name and value.
    fn extension(&mut self, item: &mut Value) {
        let Some([name, Value::String(value)]) = item.as_array_mut().map(Vec::as_mut_slice) else { return };
        let redacted = if name.as_str() == Some("ufrag") { self.name("u", value) } else { self.text(value) };
        *value = redacted;
    }

    /// A user name fragment, an id, a user name: the same original has the same pseudonym wherever it stands.
    fn name(&mut self, kind: &str, original: &str) -> String {
        if original.is_empty() {
            return String::new();
        }
        let pseudonym = format!("{kind}{}", self.hash_text(kind, original, 8));
        self.remember(original, &pseudonym);
        pseudonym
    }

    /// A host name; mDNS names stay mDNS names.
    fn host(&mut self, original: &str) -> String {
        if let Ok(ip) = original.parse::<IpAddr>() {
            return self.address(ip).to_string();
        }
        if original.is_empty() || original.eq_ignore_ascii_case("localhost") {
            return original.to_owned();
        }
        let lower = original.to_ascii_lowercase();
        let suffix = if lower.ends_with(".local") { "local" } else { "invalid" };
        let pseudonym = format!("host{}.{suffix}", self.hash_text("host", &lower, 8));
        self.remember(original, &pseudonym);
        pseudonym
    }

    /// A realm. Where it is a single word it is not looked for in other text: most are the name of a program.
    fn realm(&mut self, original: &str) -> String {
        if original.contains('.') {
            self.host(original)
        } else {
            format!("realm{}", self.hash_text("realm", original, 8))
        }
    }

    /// An interface: short names are the system's own; long ones hold MAC addresses and the like.
    fn interface(&mut self, original: &str) -> String {
        if original.len() <= 8 {
            return original.to_owned();
        }
        let start: String = original.chars().take(3).filter(char::is_ascii_alphanumeric).collect();
        let pseudonym = format!("{start}-{}", self.hash_text("interface", original, 6));
        self.remember(original, &pseudonym);
        pseudonym
    }

    /// A fingerprint: the algorithm stays.
    fn fingerprint(&mut self, original: &str) -> String {
        let (algorithm, digits) = original.split_once(' ').unwrap_or(("", original));
        let hash = self.hash("fingerprint", digits.to_ascii_uppercase().as_bytes());
        let pairs: Vec<_> = hash.iter().map(|byte| format!("{byte:02X}")).collect();
        format!("{algorithm} {}", pairs.join(":")).trim_start().to_owned()
    }

    /// A URL: scheme, port and query stay, the path goes.
    fn url(&mut self, original: &str) -> String {
        let Some((scheme, rest)) = original.split_once(':').filter(|(scheme, _)| is_scheme(scheme)) else {
            return self.text(original);
        };
        let (slashes, rest) = rest.strip_prefix("//").map_or(("", rest), |rest| ("//", rest));
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, query) = (&rest[..end], rest[end..].split_once('?').map(|(_, query)| query));
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
                (host, Some(port))
            }
            _ => (authority, None),
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let host = self.host(bare);
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let query = query.map(|query| format!("?{}", self.text(query))).unwrap_or_default();
        format!("{scheme}:{slashes}{host}{port}{query}")
    }

    /// A candidate line that was refused, so it may hold anything.
    fn candidate_line(&mut self, line: &str) -> String {
        let mut after_ufrag = false;
        let words: Vec<_> = line
            .split(' ')
            .enumerate()
            .map(|(position, word)| {
                let is_ufrag = std::mem::replace(&mut after_ufrag, word == "ufrag");
                match word.rsplit_once(':') {
                    _ if is_ufrag => self.name("u", word),
                    Some((start, foundation)) if position == 0 && start.ends_with("candidate") => {
                        format!("{start}:{}", self.hash_text("foundation", foundation, 8))
                    }
                    _ => self.text(word),
                }
            })
            .collect();
        words.join(" ")
    }

    /// Free text: addresses, host names and known names in it are replaced.
    fn text(&mut self, text: &str) -> String {
        let redacted = self.tokens(text);
        self.known_names(&redacted)
    }

    fn known_names(&self, text: &str) -> String {
        let mut redacted = text.to_owned();
        for (name, pseudonym) in &self.names {
            if name.len() >= MIN_NAME && redacted.contains(name.as_str()) {
                redacted = redacted.replace(name.as_str(), pseudonym);
            }
        }
        redacted
    }

    /// Replaces what looks like an address or a host name.
    fn tokens(&mut self, text: &str) -> String {
        let mut redacted = String::with_capacity(text.len());
        let mut rest = text;
        while !rest.is_empty() {
            let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '-' | '_' | '%' | '[' | ']');
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            redacted.push_str(&self.token(&rest[..end]));
            let gap = rest[end..].find(is_part).map_or(rest.len(), |next| end + next);
            redacted.push_str(&rest[end..gap]);
            rest = &rest[gap..];
        }
        redacted
    }

    fn token(&mut self, token: &str) -> String {
        let trimmed = token.trim_end_matches(['.', ':', '-']);
        let tail = &token[trimmed.len()..];
        // A network's address may end with colons: `2001:db8::` of `2001:db8::/32`.
        if tail.starts_with("::")
            && let Ok(ip) = token[..trimmed.len() + 2].parse::<IpAddr>()
        {
            return format!("{}{}", self.address(ip), &tail[2..]);
        }
        if trimmed.is_empty() {
            return token.to_owned();
        }
        // A range, and an address with its interface.
        if let Some((first, last)) = trimmed.split_once('-')
            && [first, last].iter().all(|part| part.parse::<IpAddr>().is_ok())
        {
            return format!("{}-{}{tail}", self.token(first), self.token(last));
        }
        if let Some((address, zone)) = trimmed.split_once('%') {
            let (bracket, address) = address.strip_prefix('[').map_or(("", address), |address| ("[", address));
            let (zone, behind) = zone.split_at(zone.find(']').unwrap_or(zone.len()));
            if let Ok(ip) = address.parse::<IpAddr>() {
                return format!("{bracket}{}%{}{behind}{tail}", self.address(ip), self.interface(zone));
            }
        }
        if let Ok(address) = trimmed.parse::<SocketAddr>() {
            return format!("{}{tail}", self.socket(address));
        }
        if let Ok(ip) = trimmed.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return format!("{}{tail}", self.address(ip));
        }
        // An address after a word and a colon, like `stun:192.0.2.1:3478` or `to:10.0.0.1`.
        if let Some((start, rest)) = trimmed.split_once(':')
            && is_scheme(start)
        {
            // With what was trimmed: it may be a network's address that ends with colons.
            return format!("{start}:{}", self.token(&format!("{rest}{tail}")));
        }
        let (host, port) = trimmed.rsplit_once(':').unwrap_or((trimmed, ""));
        if is_host_name(host) && port.bytes().all(|byte| byte.is_ascii_digit()) {
            let colon = if trimmed.len() > host.len() { ":" } else { "" };
            return format!("{}{colon}{port}{tail}", self.host(host));
        }
        token.to_owned()
    }

    fn remember(&mut self, original: &str, pseudonym: &str) {
        if self.names.len() < MAX_REMEMBERED {
            self.names.insert(original.to_owned(), pseudonym.to_owned());
        }
    }

    /// The first hexadecimal digits of a hash.
    fn hash_text(&self, kind: &str, original: &str, digits: usize) -> String {
        let hash = self.hash(kind, original.as_bytes());
        hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>().chars().take(digits).collect()
    }

    fn hash(&self, kind: &str, original: &[u8]) -> [u8; 32] {
        #[expect(clippy::unwrap_used, reason = "HMAC takes keys of any length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret).unwrap();
        mac.update(kind.as_bytes());
        mac.update(&[0]);
        mac.update(original);
        mac.finalize().into_bytes().into()
    }
}

/// Whether a field holds words of the event list itself, or bytes, which are redacted as bytes.
fn is_word_of_ours(key: &str) -> bool {
    match key {
        "kind" | "why" | "state" | "vantage" | "direction" | "transport" | "type" | "method" | "data"
        | "measurement" | "behavior" | "protocol" | "description" | "setup" => true,
        // Words of host facts.
        "what" | "moment" | "subject" | "probe" | "outcome" | "purpose" | "family" | "route_kind" | "rule_action"
        | "neighbor_state" | "framework" | "table_family" | "hook" | "chain_type" | "verdict" | "software"
        | "socket_transport" | "sysctl" | "value" | "scope" | "flags" | "link_kind" | "effective" | "needs"
        | "origin" | "read" | "aim" | "part" | "distribution" | "like" | "version" | "init" | "manager" => true,
        _ => false,
    }
}

fn is_scheme(text: &str) -> bool {
    text.len() >= 2
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// A name with at least one dot whose last label has only letters: `relay.example`, not `0.1.0`.
fn is_host_name(text: &str) -> bool {
    let label =
        |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let last = text.rsplit('.').next().unwrap_or_default();
    text.contains('.') && text.split('.').all(label) && last.len() >= 2 && last.bytes().all(|b| b.is_ascii_alphabetic())
}
