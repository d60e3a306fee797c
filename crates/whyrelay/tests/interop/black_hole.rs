//! Large packets that vanish on the way to the signaling server, too.

use anyhow::{Context, Result, ensure};

use crate::homes::Homes;
use crate::ours::Account;
use crate::suite::{Suite, Tool};

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    let tools = [Tool::NetworkNamespaces, Tool::Nft];
    suite.test("black_hole::signaling_works_where_large_packets_vanish", &tools, black_hole);
    suite.test("black_hole::a_handshake_that_is_too_large_for_it_is_its_fault", &tools, handshake);
    suite.test("black_hole::large_packets_lost_toward_signaling_alone_are_named", &tools, toward_signaling);
}

fn summary<'a>(account: &'a Account, code: &str) -> Result<(&'a str, &'a str)> {
    let mut findings = account.json["findings"].as_array().into_iter().flatten();
    let found = findings.find(|finding| finding["code"] == code);
    let found = found.with_context(|| format!("no {code}: {}", account.printed))?;
    Ok((found["severity"].as_str().unwrap_or_default(), found["summary"].as_str().unwrap_or_default()))
}

/// Whether a probe of that side is in the account whose words begin so, and whether it was answered.
fn answered(account: &Account, side: &str, words: &str) -> Option<bool> {
    let mut rows = account.json["probes"].as_array().into_iter().flatten();
    let row = rows.find(|row| row["side"] == side && row["probe"].as_str().is_some_and(|text| text.starts_with(words)));
    row?["answered"].as_bool()
}

/// A and its router, which has links that take no more bytes, on the way to everything and back, and says so to nobody.
fn homes_behind(mtu: u16) -> Result<Homes> {
    let homes = Homes::new()?;
    homes.drop_unasked()?;
    homes.routers[0].shell(&format!(
        "ip route replace default via 10.9.1.1 mtu lock {mtu}; ip route replace 192.168.1.0/24 dev lan mtu lock {mtu};
         nft 'table ip q {{ chain o {{ type filter hook output priority 0; icmp type destination-unreachable drop; }}; }}'",
    ))?;
    Ok(homes)
}

fn black_hole() -> Result<()> {
    let (of_a, of_b) = homes_behind(1280)?.both(&[], &[])?;
    for account in [&of_a, &of_b] {
        ensure!(account.json["path"] == "direct", "{}", account.printed);
        let (severity, said) = summary(account, "WR603")?;
        ensure!(severity == "warning" && said.starts_with("Packets of 1280 bytes from A"), "{said}");
        // Each other's recording came over signaling: it is what is larger than one packet.
        for side in ["a", "b"] {
            ensure!(answered(account, side, "in packets of 1500").is_some(), "{side}: {}", account.printed);
        }
    }
    Ok(())
}

/// Checks pass, and DTLS's datagrams do not.
fn handshake() -> Result<()> {
    let (of_a, of_b) = homes_behind(1000)?.both(&[], &[])?;
    for account in [&of_a, &of_b] {
        ensure!(account.json["path"] == "failed", "{}", account.printed);
        let found = account.json["findings"].as_array().into_iter().flatten();
        let codes: Vec<_> = found.filter(|found| found["severity"] == "error").map(|found| &found["code"]).collect();
        ensure!(!codes.is_empty() && codes.iter().all(|code| *code == "WR603"), "{codes:?}: {}", account.printed);
        ensure!(summary(account, "WR603")?.1.starts_with("Datagrams of "), "{}", account.printed);
    }
    Ok(())
}

/// Only what goes to signaling is lost, and all UDP: the session needs its time, and signaling to the end.
fn toward_signaling() -> Result<()> {
    let homes = Homes::new()?;
    homes.drop_unasked()?;
    homes.routers[0].shell(
        "nft 'table ip q { chain f { type filter hook forward priority 0; meta l4proto udp drop; }; }';
         ip route add 192.0.2.1/32 via 10.9.1.1 mtu lock 1280;
         nft 'table ip r { chain o { type filter hook output priority 0; icmp type destination-unreachable drop; }; }'",
    )?;
    let account = homes.session(&["--timeout", "6s"])?;
    ensure!(account.json["path"] == "failed", "{}", account.printed);
    let (severity, said) = summary(&account, "WR603")?;
    ensure!(severity == "warning", "{said}: {}", account.printed);
    ensure!(
        said.starts_with("TCP packets of 1500 bytes from A to the signaling server 192.0.2.1:8080 get lost"),
        "{said}"
    );
    ensure!(account.json["findings"][0]["code"] != "WR603", "it is no cause: {}", account.printed);
    ensure!(answered(&account, "a", "over TCP to the signaling server") == Some(false), "{}", account.printed);
    ensure!(answered(&account, "b", "over TCP to the signaling server") == Some(true), "{}", account.printed);
    Ok(())
}
