//! checks through the relay get lost.

use super::{Examination, Fault, Fix, Rule};
use crate::diagnosis::finding::{Blame, Severity};
use crate::diagnosis::network::told;
use crate::diagnosis::session::Session;
use crate::diagnosis::session::{Break, Path};
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR407",
    name: "relayed-checks-lost",
    title: "checks through the relay get lost",
    meaning: "A side has a relayed address and the checks through it do not arrive: the port range of the relay is closed in its firewall, or the relay cannot reach the peer.",
    detection: "Checks on relayed pairs were sent and never seen on the other side, and no relayed pair worked, though both sides reach a STUN server over UDP.",
    proof: "A datagram sent from outside to the relayed address, with a permission in place: nothing arrives.",
    doubt: "A capture on the relay that shows the check leave towards the peer: then it is lost between relay and peer.",
    fixes: &[
        Fix::firewall("Open the relay's port range (min-port to max-port) for UDP in its firewall."),
        Fix::safe("Check that the relay itself can reach the peer's address."),
    ],
    threads: &["coturn/coturn#731", "coturn/coturn#1081"],
    depends_on: &["WR403", "WR404", "WR401", "WR110", "WR112", "WR702", "WR703"],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    if session.path != Path::Failed {
        return Examination::Clear;
    }
    let relayed: Vec<_> = session.pairs.iter().filter(|pair| pair.relayed).collect();
    let chains = || relayed.iter().flat_map(|pair| [(Vantage::A, *pair), (Vantage::B, *pair)]);
    if chains().any(|(from, pair)| pair.from(from).answer_seen.is_some_and(|count| count > 0)) {
        return Examination::Clear;
    }
    // Who hears no server over UDP would not hear a relay, and would not reach one.
    let hears = [Vantage::A, Vantage::B]
        .map(|vantage| !session.evidence.is_recorded(vantage) || !told(session.evidence.side(vantage)).is_empty());
    if hears.contains(&false) {
        return Examination::Clear;
    }
    let lost: Vec<_> = chains().filter(|(from, pair)| pair.from(*from).broken == Some(Break::OnTheWay)).collect();
    let Some((from, pair)) = lost.first() else { return Examination::Clear };
    let Some(side) = pair.side(*from) else { return Examination::Clear };
    let (here, there) = (from.name(), from.other().name());
    Examination::Found(vec![Fault {
        blame: Blame::Relay,
        severity: Severity::Error,
        summary: format!(
            "Checks of {here} from {} to {} through the relay never reach {there}",
            side.pair.local, side.pair.remote
        ),
        evidence: lost.iter().flat_map(|(from, pair)| pair.from(*from).evidence.clone()).collect(),
        ..Fault::default()
    }])
}
