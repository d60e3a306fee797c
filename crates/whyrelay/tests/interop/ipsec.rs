//! IPsec policies that stop a session's packets.

use anyhow::{Context, Result, ensure};
use whyrelay_core::report::Report;

use crate::namespace::Routed;
use crate::ours;
use crate::suite::{self, Suite, Tool};

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    suite.test("ipsec::the_policy_that_drops_is_named", &[Tool::NetworkNamespaces, Tool::Nft], ipsec);
}

/// A's policies about B, and how the finding begins.
const POLICIES: [(&str, &str, &str); 4] = [
    (
        "blocked on the way out",
        "ip xfrm policy add src 203.0.113.34/32 dst 198.51.100.0/26 proto udp dir out action block priority 5",
        "IPsec on A drops what it sends to 198.51.100.7:",
    ),
    (
        "a tunnel on the way out that is not there",
        "ip xfrm policy add src 203.0.113.34/32 dst 198.51.100.7/32 dir out tmpl src 203.0.113.34 dst 198.51.100.7 proto esp mode transport",
        "IPsec on A drops what it sends to 198.51.100.7:",
    ),
    (
        "blocked on the way in",
        "ip xfrm policy add src 198.51.100.7/32 dst 203.0.113.34/32 dir in action block",
        "IPsec on A drops what it receives from 198.51.100.7:",
    ),
    (
        "a tunnel on the way in that is not there",
        "ip xfrm policy add src 198.51.100.7/32 dst 203.0.113.34/32 dir in tmpl src 198.51.100.7 dst 203.0.113.34 proto esp mode transport",
        "IPsec on A drops what it receives from 198.51.100.7:",
    ),
];

fn ipsec() -> Result<()> {
    suite::each(&POLICIES, 2, |(name, fault, begin)| {
        let world = Routed::new()?;
        world.a.shell(fault)?;
        let (offerer, _, recording) = ours::recorded(&world, &[], &[], |command| command)?;
        let report = Report::from_events(&recording.events);
        let found = report.findings.iter().find(|finding| finding.code == "WR129");
        let found = found.with_context(|| format!("{name}: no WR129: {}", offerer.account))?;
        ensure!(found.summary.starts_with(begin) && found.summary.contains(" by the policy src "), "{name}: {found:?}");
        ensure!(report.findings[0].code == "WR129", "{name}: it is not the first: {}", offerer.account);
        // The advice works. Ahead of the first priority there is none.
        let command =
            found.remedies.iter().flat_map(|remedy| &remedy.commands).find(|text| text.contains("policy add"));
        ensure!(command.is_some() == fault.contains("priority 5"), "{name}: {found:?}");
        let Some(command) = command else { return Ok(()) };
        world.a.shell(command)?;
        let (_, _, recording) = ours::recorded(&world, &[], &[], |command| command)?;
        ensure!(Report::from_events(&recording.events).findings.is_empty(), "{name}: it did not help");
        Ok(())
    })
}
