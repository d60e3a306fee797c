//! What a session stood on went away while it ran: an interface, an address, a route.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::errno::{EADDRNOTAVAIL, EHOSTUNREACH, ENETDOWN, ENETUNREACH};
use super::wording::{ask, way};
use super::{Examination, Fault, Fix, Need, Rule};
use crate::diagnosis::evidence::{SideEvidence, Taken};
use crate::diagnosis::finding::{Blame, Remedy, Severity};
use crate::diagnosis::session::{Path, Session};
use crate::host::{HostFact, Init, Moment, Subject};
use crate::time::Timestamp;
use crate::trace::event::Vantage;

pub(super) const RULE: Rule = Rule {
    code: "WR131",
    name: "network-went-away",
    title: "an interface, address or route of the session went away while it ran",
    meaning: "The host's network changed under the session: an interface was removed or went down, one of its addresses was taken away (DHCP, a VPN client, a container network, sleep), or its packets got another way out. What was under way then is lost, and candidates that were told are no longer true.",
    detection: "What the host told before the checks of an interface or address that the session has a candidate of is no longer there after them, such an interface went down in between, or the kernel answers otherwise for its packets than it did when they were first sent. It is the cause only where no other address of the session stayed, or the path itself went by what is gone; an interface that was down for a time is it only where a send from there failed afterwards, for want of an interface, address or route.",
    proof: "The log of what sets the network up, at that time.",
    doubt: "The same failure in a session during which nothing changes.",
    fixes: &[Fix::safe("Run the session again on a network that stays as it is.")],
    threads: &[],
    depends_on: &["WR801"],
    needs: &[Need::Host(Subject::Links), Need::Host(Subject::Addresses)],
    examine,
};

fn examine(session: &Session<'_>) -> Examination {
    if session.path == Path::Direct {
        return Examination::Clear;
    }
    Examination::of(session.recorded().filter_map(|vantage| fault(session, vantage)).collect())
}

fn fault(session: &Session<'_>, vantage: Vantage) -> Option<Fault> {
    let side = session.evidence.side(vantage);
    let gone = gone(side);
    // What failed before, or for another reason, is no effect of that.
    let failed = |gone: &Gone| {
        side.send_failures.iter().any(|((local, _, errno), failure)| {
            matches!(*errno, ENETUNREACH | ENETDOWN | EHOSTUNREACH | EADDRNOTAVAIL)
                && gone.addresses.contains(&local.ip())
                && failure.seq > gone.seq
        })
    };
    let harming = gone.iter().filter(|gone| !gone.may_be_back || failed(gone));
    let lost: BTreeSet<IpAddr> = harming.flat_map(|gone| gone.addresses.iter().copied()).collect();
    let selected = side.selected_pair().map(|(_, pair)| pair.local.ip());
    let is_all = !lost.is_empty() && bases(side).all(|base| lost.contains(&base));
    let harms = is_all || selected.is_some_and(|selected| lost.contains(&selected));
    // Another way for packets is told where nothing else is gone.
    let (what, evidence): (Vec<_>, Vec<_>) = match gone.as_slice() {
        [] => side.host.gone.iter().find_map(rerouted).into_iter().unzip(),
        _ => gone.into_iter().map(|gone| (gone.what, gone.seq)).unzip(),
    };
    if what.is_empty() {
        return None;
    }
    let is_systemd = side.host.system.as_ref().is_some_and(|(_, system)| system.init == Some(Init::Systemd));
    let look = Remedy::safe("See what the system did with its network then");
    Some(Fault {
        blame: Blame::side(vantage),
        severity: if harms { session.harm() } else { Severity::Info },
        summary: format!("While the session ran, the network of {} changed: {}", vantage.name(), what.join(", ")),
        evidence,
        advice: is_systemd.then(|| look.run("journalctl --boot --since=-1h --unit='*etwork*'")).into_iter().collect(),
        ..Fault::default()
    })
}

/// Something that is gone, in words, with the addresses of the session that went with it.
struct Gone {
    what: String,
    seq: u64,
    addresses: BTreeSet<IpAddr>,
    /// It was away while the session ran, and was not seen to be so at the end.
    may_be_back: bool,
}

/// Addresses of this host that the session had candidates of.
fn bases(side: &SideEvidence) -> impl Iterator<Item = IpAddr> + '_ {
    let locals = side.local_candidates.iter().filter(|local| !side.is_relayed(local.base));
    locals.map(|local| local.base.ip())
}

/// What is gone that the session used.
fn gone(side: &SideEvidence) -> Vec<Gone> {
    let used: BTreeSet<IpAddr> = bases(side).collect();
    let of_device = |device: &str| -> BTreeSet<IpAddr> {
        let on_it = side.host.addresses.iter().filter(|address| address.fact.device == device);
        on_it.map(|address| address.fact.address).filter(|address| used.contains(address)).collect()
    };
    let when =
        |at: Timestamp| format!("{:.1} s after the beginning of the recording", at.since(side.first_at).as_secs_f64());
    let mut found: Vec<Gone> = Vec::new();
    for link in side.host.links.iter().filter(|link| link.moment == Moment::After) {
        let before = side.host.links.iter().find(|before| before.fact.device == link.fact.device);
        let addresses = of_device(&link.fact.device);
        if before.is_some_and(|before| before.fact.works()) && !link.fact.works() && !addresses.is_empty() {
            let how = if link.fact.up { "has no carrier any more" } else { "was set down" };
            let lost = side.host.links_lost.get(&link.fact.device);
            let when = lost.map_or_else(String::new, |(_, at)| format!(", {}", when(*at)));
            let seq = lost.map_or(link.seq, |(seq, _)| *seq);
            found.push(Gone { what: format!("{} {how}{when}", link.fact.device), seq, addresses, may_be_back: false });
        }
    }
    for Taken { seq, fact, .. } in &side.host.gone {
        let (what, addresses) = match fact {
            HostFact::Link(link) => (format!("the interface {} is gone", link.device), of_device(&link.device)),
            HostFact::Address(address) => {
                let what = format!("{} lost the address {}", address.device, address.address);
                (what, BTreeSet::from([address.address]).intersection(&used).copied().collect())
            }
            _ => continue,
        };
        // An interface takes its addresses with it.
        if !addresses.is_empty() && !found.iter().any(|told| addresses.is_subset(&told.addresses)) {
            found.push(Gone { what, seq: *seq, addresses, may_be_back: false });
        }
    }
    for (device, (seq, at)) in &side.host.links_lost {
        let first = side.host.links.iter().find(|link| link.fact.device == *device);
        let addresses = of_device(device);
        let is_told = found.iter().any(|told| addresses.is_subset(&told.addresses));
        if first.is_some_and(|first| first.fact.works()) && !addresses.is_empty() && !is_told {
            let what = format!("{device} was down from {}", when(*at));
            found.push(Gone { what, seq: *seq, addresses, may_be_back: true });
        }
    }
    found
}

/// Addresses of the session that its host lost while it ran, each with the event after which they were away, or 0 where
/// they did not come back: that nothing can be sent from there afterwards is no fault of a route.
pub(super) fn lost(side: &SideEvidence) -> BTreeMap<IpAddr, u64> {
    let mut lost = BTreeMap::new();
    for gone in gone(side) {
        let since = if gone.may_be_back { gone.seq } else { 0 };
        for address in gone.addresses {
            lost.entry(address).and_modify(|known: &mut u64| *known = since.min(*known)).or_insert(since);
        }
    }
    lost
}

/// The session's own packets have another way than when they were first sent.
fn rerouted(gone: &Taken<HostFact>) -> Option<(String, u64)> {
    let HostFact::RouteAnswer(answer) = &gone.fact else { return None };
    (!answer.question.probe && answer.failure.is_none())
        .then(|| (format!("\"{}\" no longer leads to {}", ask(&answer.question), way(answer)), gone.seq))
}
