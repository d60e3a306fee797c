//! A kind of fault: how it shows, what it hides, and the findings that name it.

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Culprit {
    /// The side where it was planted.
    Own,
    /// The server.
    Server,
    /// Signaling.
    Signaling,
    /// Nobody's in particular, or not known from where it is seen.
    Anybody,
}

/// How a fault shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// Always.
    Always,
    /// In what the host does with packets for a candidate of the other side: one must be known that could be reached.
    InSending,
    /// In what happens to packets of the other side: some must arrive.
    InArrivals,
    /// In what servers answer: they must.
    AtServers,
    /// In what happens to packets for the other side's relayed address: the relay must work.
    TowardsRelay,
    /// Only where the path needs the relay and the rest of the way there is whole.
    AtRelay,
}

/// What a fault keeps from showing on the other side. Two faults of which one hides the other are not planted together:
/// what touches no packet leaves no trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hides {
    /// Nothing.
    Nothing,
    /// Its own packets do not reach the other side.
    Packets,
    /// Nor does the other side learn an address of it that could be reached.
    Addresses,
    /// Nor do the servers answer anybody.
    Servers,
}

/// What a fault of a host leaves of that host's ways. What the networks, the server, signaling and the session's options
/// leave stands in the scenario, whether planted or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leaves {
    /// All of them: it is a fault of something else.
    All,
    /// Those by the server, and the direct one where the peer is seen at several addresses: one of them is refused. Both
    /// paths are right there.
    OtherAddresses,
    /// Those by the server.
    Relay,
    /// None.
    Nothing,
}

impl Fault {
    /// Whether it is on a side: its host's, or of the network in front of it; not the server's, nor signaling's.
    pub fn is_of_side(&self) -> bool {
        !matches!(self.culprit, Culprit::Server | Culprit::Signaling) && !self.piece.starts_with("[server]")
    }

    /// Whether it keeps a fault on the other side from showing.
    pub fn hides(&self, other: &Self) -> bool {
        match other.shows {
            Shows::Always => false,
            Shows::InArrivals => self.hides >= Hides::Packets,
            Shows::InSending => self.hides >= Hides::Addresses,
            Shows::AtServers => self.hides == Hides::Servers,
            Shows::TowardsRelay => self.hides >= Hides::Addresses || self.shows == Shows::AtRelay,
            Shows::AtRelay => self.hides >= Hides::Addresses,
        }
    }

    /// Whether it keeps another fault of its own side from showing, too: it must keep it from that on the other side, and on
    /// its own in the same way. What keeps an address from the other side does not keep its own host from sending.
    pub fn idles(&self, other: &Self) -> bool {
        self.hides(other)
            && match other.shows {
                Shows::InSending => self.leaves == Leaves::Nothing || self.shows == Shows::InSending,
                // The other side has no address to send to.
                Shows::InArrivals => self.hides >= Hides::Addresses,
                _ => true,
            }
    }
}

impl Fault {
    /// Whether it is none on one side with another one, for what that one brings: a VPN that takes all but what has the mark
    /// that the session has then; and what is wrong with IPv4, or would be better than the other uplink, on a host that has
    /// no IPv4.
    pub fn is_none_beside(&self, other: &Self) -> bool {
        let marks = other.piece.contains("[host.SELF.session]\nmark = \"0x1bd00\"");
        let is_of_ipv4 = self.piece.contains("= \"peer") || self.name == "mark-to-dead-uplink";
        self.name == "vpn-without-a-mark" && marks || is_of_ipv4 && other.piece.contains("ipv4 = false")
    }

    /// Whether it is what is in front of its host.
    fn is_of_network(&self) -> bool {
        self.moves && self.leaves == Leaves::All
    }

    /// Why nothing that is recorded can tell of it as long as another fault is there: what it does to packets it does to
    /// none, and nobody was asked for what it is. `None`: nothing stands in the way of telling it.
    pub fn untold_beside(&self, other: &Self, on_one_side: bool) -> Option<&'static str> {
        if !on_one_side {
            return other.hides(self).then(|| self.shows.untold());
        }
        match (self.shows, other.shows) {
            _ if !self.is_of_network() || other.is_of_network() => None,
            // A plain program's packets do not leave either.
            _ if other.name == "conntrack-full" => {
                Some("no packet leaves the host, whoever sends it: nothing of it meets the network in front")
            }
            (Shows::InArrivals | Shows::InSending | Shows::TowardsRelay, Shows::InSending) => Some(
                "the host sends nothing to the peer by the network in front, which does harm to such packets alone",
            ),
            _ => None,
        }
    }
}

impl Shows {
    /// Why a fault that shows so is not seen beside one that keeps it from showing.
    pub const fn untold(self) -> &'static str {
        match self {
            Self::Always => "it shows always",
            Self::InSending => "no address of the other side is known to which this side would send",
            Self::InArrivals => "no packet of the other side comes to where the fault is",
            Self::AtServers => "no server answers anybody, so that what is in front of a side is not seen",
            Self::TowardsRelay => "nothing is sent to a relayed address, or the relay itself fails",
            Self::AtRelay => "no path is left on which the relay would matter",
        }
    }
}

/// A fault that can be planted in a world.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Its name.
    pub name: &'static str,
    /// The findings that name it; any of them is right.
    pub findings: &'static [&'static str],
    /// Those that are right as well as long as the other side's recording is not there, or shows nothing of it because a
    /// fault there hides this one.
    pub alone: &'static [&'static str],
    /// Whom they must blame.
    pub culprit: Culprit,
    /// How it shows.
    pub shows: Shows,
    /// What it keeps from showing on the other side.
    pub hides: Hides,
    /// What it leaves of its side's ways.
    pub leaves: Leaves,
    /// It changes where the hosts are, so that no second fault of this kind fits into a world.
    pub moves: bool,
    /// The piece of a scenario file that makes it.
    pub piece: &'static str,
}

#[cfg(test)]
mod tests {
    use crate::fuzz::FAULTS;

    #[test]
    fn what_the_other_fault_takes_the_ground_from_is_none() {
        let is_none = |one: &str, other: &str| {
            let find = |name| FAULTS.iter().find(|fault| fault.name == name).unwrap_or_else(|| panic!("{name}"));
            find(one).is_none_beside(find(other))
        };
        assert!(is_none("vpn-without-a-mark", "mark-prohibit"), "it goes past the VPN");
        assert!(!is_none("mark-prohibit", "vpn-without-a-mark"));
        assert!(!is_none("vpn-takes-everything", "mark-prohibit"), "whatever has a mark");
        for of_ipv4 in ["rule-by-user", "route-throw", "output-drop", "input-reject", "mark-to-dead-uplink"] {
            assert!(is_none(of_ipv4, "ipv6-without-route"), "{of_ipv4}");
        }
        for of_both in ["mark-blackhole", "conntrack-full", "relay-only"] {
            assert!(!is_none(of_both, "ipv6-without-route"), "{of_both}");
        }
    }

    #[test]
    fn a_fault_is_idle_only_beside_one_that_leaves_it_nothing_to_show_itself_by() {
        let idles = |one: &str, other: &str| {
            let find = |name| FAULTS.iter().find(|fault| fault.name == name).unwrap_or_else(|| panic!("{name}"));
            find(one).idles(find(other))
        };
        assert!(idles("mark-blackhole", "output-drop"), "nothing comes to the filter");
        assert!(idles("relay-only", "rule-by-user"));
        assert!(idles("conntrack-full", "input-drop"));
        // Packets that go another way come to the filter first, and those of the peer to its own.
        assert!(!idles("peer-by-other-uplink", "output-drop"));
        assert!(!idles("output-drop", "input-drop"));
        // A network that lets nothing out keeps its host from sending nothing.
        assert!(!idles("no-udp", "route-prohibit"));
        assert!(!idles("mark-blackhole", "symmetric"), "servers would answer");
    }
}
