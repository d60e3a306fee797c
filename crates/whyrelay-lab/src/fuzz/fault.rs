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

    /// Whether it keeps another fault of its own side from doing harm: what it stops before, or never lets begin. That its
    /// own packets do not reach the other side keeps those of the other side from nothing.
    pub fn idles(&self, other: &Self) -> bool {
        // What is the server's or signaling's is on no side.
        if !self.is_of_side() {
            return self.hides(other);
        }
        match other.shows {
            Shows::Always => false,
            Shows::InSending => {
                self.leaves == Leaves::Nothing || self.shows == Shows::InSending && self.hides >= Hides::Packets
            }
            // The other side has no address to send to.
            Shows::InArrivals => self.hides >= Hides::Addresses,
            Shows::AtServers | Shows::TowardsRelay | Shows::AtRelay => self.leaves == Leaves::Nothing,
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
