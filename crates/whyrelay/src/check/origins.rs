//! Which of this host's addresses a check looks from: those that were chosen, else the system's own choice and the others.

use std::net::SocketAddr;

use whyrelay_core::host::leads_to_guests;

use super::local;
use super::nat::Origin;
use super::parts::Look;
use crate::io::interfaces::{self, Interface, InterfaceFilter};

/// Local addresses that are looked from, of each family.
const MAX_ORIGINS: usize = 4;

impl Look<'_> {
    /// Our end toward a destination, if there is a way to it.
    pub(super) fn origin_toward(&self, remote: SocketAddr) -> Option<Origin> {
        let preferred = local::origin_toward(remote, self.found, self.options.mark)?;
        permitted(remote, preferred, self.found, &self.config.interfaces)
    }

    /// The local addresses to look from toward a server: the system's own choice, then the other usable ones. And those
    /// that are not looked from, with the reason.
    pub(super) fn origins(&self, remote: SocketAddr) -> (Vec<Origin>, Vec<(String, String)>) {
        let (config, mut left_out) = (self.config, Vec::new());
        let mut origins: Vec<Origin> = Vec::new();
        let preferred = self.origin_toward(remote);
        let chosen = interfaces::usable(self.found, &config.interfaces);
        let restricted = config.interfaces.is_only();
        if let Some(preferred) = preferred {
            let wanted = chosen.iter().any(|(address, _)| address.ip() == preferred.address.ip());
            if wanted || !restricted && remote.ip().is_loopback() {
                origins.push(preferred);
            }
        }
        for (address, interface) in chosen {
            let known = origins.iter().any(|origin| origin.address.ip() == address.ip());
            let link_local = interfaces::is_link_local(&address);
            let is_apart = address.ip().is_loopback() && !(restricted && remote.ip().is_loopback());
            if known || is_apart || address.is_ipv4() != remote.is_ipv4() {
                continue;
            }
            let name = interface.clone().unwrap_or_default();
            let what = format!("the NAT's behavior for {} ({name})", address.ip());
            if leads_to_guests(&name) && !restricted {
                let why = "the interface serves this host's own guests: name it with --interface to look from it";
                left_out.push((what, why.to_owned()));
            } else if !link_local && origins.len() < MAX_ORIGINS {
                origins.push(Origin { address, interface });
            } else if !link_local {
                let why = format!("only {MAX_ORIGINS} addresses are looked from: name it with --interface");
                left_out.push((what, why));
            }
        }
        (origins, left_out)
    }

    /// Why there is no end of ours toward a destination.
    pub(super) fn no_way(&self) -> &'static str {
        if self.config.interfaces.is_empty() {
            "there is no route to it"
        } else {
            "there is no route to it from the interfaces and addresses that were chosen"
        }
    }
}

/// Our end toward a destination: the system's own choice where that is one of ours, else the first of those that were
/// chosen and may get there.
fn permitted(remote: SocketAddr, preferred: Origin, found: &[Interface], filter: &InterfaceFilter) -> Option<Origin> {
    let chosen = interfaces::usable(found, filter);
    let own = remote.ip().is_loopback() && !filter.is_only() && preferred.address.ip().is_loopback();
    if own || filter.is_empty() || chosen.iter().any(|(address, _)| address.ip() == preferred.address.ip()) {
        return Some(preferred);
    }
    let other = chosen.into_iter().find(|(address, _)| interfaces::could_reach(*address, remote));
    other.map(|(address, interface)| Origin { address, interface })
}

#[cfg(test)]
mod tests {
    use whyrelay_core::trace::event::InterfaceUse;

    use super::*;

    #[test]
    fn sockets_are_on_what_was_chosen_and_no_other() {
        let interface = |name: &str, address: &str, used| {
            let addresses = vec![format!("{address}:0").parse().unwrap()];
            Interface { name: name.to_owned(), index: 1, addresses, used }
        };
        let toward = |remote: &str, filter: &InterfaceFilter, eth0: InterfaceUse| {
            let found = [
                interface("eth0", "192.168.1.2", eth0),
                interface("eth1", "10.0.0.2", InterfaceUse::Used),
                interface("lo", "127.0.0.1", InterfaceUse::Loopback),
            ];
            let preferred = if remote.starts_with("127.") { "127.0.0.1:0" } else { "192.168.1.2:0" };
            let preferred = Origin { address: preferred.parse().unwrap(), interface: None };
            permitted(remote.parse().unwrap(), preferred, &found, filter).map(|origin| origin.address.ip().to_string())
        };
        let (server, here) = ("198.51.100.1:3478", "127.0.0.1:3478");
        let none = InterfaceFilter::default();
        assert_eq!(toward(server, &none, InterfaceUse::Used).as_deref(), Some("192.168.1.2"), "the system's choice");
        let without = InterfaceFilter { exclude: vec!["eth0".into()], ..InterfaceFilter::default() };
        assert_eq!(toward(server, &without, InterfaceUse::Excluded).as_deref(), Some("10.0.0.2"));
        assert_eq!(toward(here, &without, InterfaceUse::Excluded).as_deref(), Some("127.0.0.1"));
        let addresses = vec!["127.0.0.1".parse().unwrap()];
        let loopback = InterfaceFilter { addresses, ..InterfaceFilter::default() };
        assert_eq!(toward(server, &loopback, InterfaceUse::Used), None, "loopback leads nowhere else");
        assert_eq!(toward(here, &loopback, InterfaceUse::Used).as_deref(), Some("127.0.0.1"));
    }
}
