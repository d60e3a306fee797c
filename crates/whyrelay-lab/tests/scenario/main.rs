//! Scenario files: what is read, what is refused and how, and that the schema in docs is that of the code.

mod accuracy;
mod worlds;

use std::path::Path;

use whyrelay_lab::scenario::{PRESETS, Scenario, schema};

fn error(text: &str) -> String {
    let error = Scenario::parse("test", text).expect_err("this is no scenario");
    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    format!("{error} {source}")
}

const ENDS: &str = "\n[expect]\npath = \"direct\"\n";

#[test]
fn every_scenario_in_the_program_is_a_file_and_resolves_the_same_after_being_written() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    let files = Scenario::read_directory(&directory).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(files.len(), Scenario::embedded().len());
    for scenario in files {
        let again = Scenario::parse(&scenario.name, &scenario.to_toml());
        let again = again.unwrap_or_else(|error| panic!("{}: {error}\n{}", scenario.name, scenario.to_toml()));
        assert_eq!(again, scenario);
        assert_eq!(Scenario::find(&scenario.name).ok().as_ref(), Some(&scenario));
    }
}

#[test]
fn every_preset_makes_a_network() {
    for preset in PRESETS {
        let text = format!("title = \"t\"\n[host.a]\nbehind = {:?}\n[host.b]\n{ENDS}", preset.name);
        let scenario = Scenario::parse("preset", &text).unwrap_or_else(|error| panic!("{}: {error}", preset.name));
        assert_eq!(scenario.topology.routers.len(), 1);
        assert!(!scenario.topology.hosts[0].interfaces[0].addresses.is_empty());
    }
}

#[test]
fn what_is_wrong_is_named_with_its_key_and_a_way_out() {
    for (text, parts) in [
        ("title = \"t\"\nfoo = 1", &["unknown field `foo`"][..]),
        ("title = \"t\"\n[host.a]", &["host.b", "[host.b]"][..]),
        ("title = \"t\"\n[host.a]\nbehind = \"castle\"\n[host.b]", &["host.a.behind", "castle", "home-router"]),
        ("title = \"t\"\n[host.a]\n[host.b]\n[router.r]\noutside = \"x\"", &["router.r.outside", "no router \"x\""]),
        (
            "title = \"t\"\n[host.a]\n[host.b]\n[router.r]\noutside = \"s\"\n[router.s]\noutside = \"r\"",
            &["router.r.outside", "circle"],
        ),
        ("title = \"t\"\n[host.a]\nlink = { delay = \"5\" }\n[host.b]", &["\"5\" is no duration", "20ms"]),
        ("title = \"t\"\n[host.a]\nlink = { loss = 101.0 }\n[host.b]", &["host.a.link.loss", "percentage"]),
        ("title = \"t\"\n[host.a]\n[[host.a.rule]]\npriority = 1\n[host.b]", &["host.a.rule[0].table", "action"]),
        (
            "title = \"t\"\n[host.a]\n[[host.a.route]]\nto = \"nowhere\"\ndev = \"eth0\"\n[host.b]",
            &["host.a.route[0].to", "peer"],
        ),
        (
            "title = \"t\"\n[host.a]\n[[host.a.route]]\nto = \"peer\"\ndev = \"eth0\"\nmtu = 500\n[host.b]",
            &["host.a.route[0].mtu", "576"],
        ),
        (
            "title = \"t\"\n[host.a]\n[[host.a.route]]\nto = \"default\"\ndev = \"wg0\"\n[host.b]",
            &["host.a.route[0].dev", "eth0"],
        ),
    ] {
        let said = error(&format!("{text}{ENDS}"));
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
    }
}

#[test]
fn names_stand_for_addresses() {
    let scenario = Scenario::find("policy-rule-diverts-peer").unwrap_or_else(|error| panic!("{error}"));
    let a = &scenario.topology.hosts[0];
    assert_eq!(a.rules[0].to.map(|to| to.to_string()).as_deref(), Some("203.0.113.64/26"));
    assert_eq!(a.interfaces[1].addresses[0].to_string(), "10.66.0.2/24");
    assert_eq!(scenario.topology.server_address().to_string(), "198.51.100.1");
}

/// `UPDATE_SCHEMA=1` writes it.
#[test]
fn the_schema_in_docs_is_that_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/scenario.schema.json");
    let made = serde_json::to_string_pretty(&schema()).unwrap_or_default() + "\n";
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(&path, &made).unwrap_or_else(|error| panic!("{error}"));
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == made, "docs/scenario.schema.json is old: run this test with UPDATE_SCHEMA=1");
}
