//! The JSON account of a check matches docs/check.schema.json, with every kind of measurement in it.

use serde_json::Value;
use whyrelay_core::report::{CheckReport, render_check_json};
use whyrelay_core::trace::event::Event;

use crate::json_schema::check;
use crate::schema::undescribed;

const SCHEMA: &str = include_str!("../../../../docs/check.schema.json");

/// A sample of each kind of event.
const EVENTS: &str = include_str!("events.jsonl");

fn account() -> String {
    let events: Vec<Event> =
        EVENTS.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(is_of_a_check).collect();
    render_check_json(&CheckReport::from_events(&events))
}

fn is_of_a_check(event: &Event) -> bool {
    let kind = serde_json::to_value(&event.kind).expect("events serialize");
    let kinds = ["measured", "not-measured", "check-started", "server-known", "interface"];
    kinds.contains(&kind["kind"].as_str().unwrap_or_default())
}

fn matches(value: &Value) -> Result<(), String> {
    let schema: Value = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    check(&schema, &schema, value, "")
}

#[test]
fn an_account_with_every_measurement_matches_the_schema_of_a_check() {
    let account: Value = serde_json::from_str(&account()).expect("the account is JSON");
    matches(&account).unwrap_or_else(|error| panic!("{error}\n{account:#}"));
    let schema: Value = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    let described = schema["$defs"]["measurement"]["anyOf"].as_array().expect("a list");
    for kind in described.iter().map(|kind| &kind["properties"]["measurement"]["const"]) {
        let there = account["measurements"].as_array().expect("a list").iter().any(|fact| fact["measurement"] == *kind);
        assert!(there, "no sample of {kind}");
    }
    let empty: Value = serde_json::from_str(&render_check_json(&CheckReport::from_events(&[]))).expect("JSON");
    matches(&empty).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn the_schema_of_a_check_refuses_what_is_wrong() {
    let right: Value = serde_json::from_str(&account()).expect("the account is JSON");
    let faults: [fn(&mut Value); 6] = [
        |account| account["schema"] = "whyrelay.check/2".into(),
        |account| account["nats_in_front"] = "three".into(),
        |account| account["rows"][0]["state"] = "fine".into(),
        |account| account["measurements"][0]["measurement"] = "guess".into(),
        |account| account["measurements"][0]["more"] = 1.into(),
        |account| drop(account["measurements"][0].as_object_mut().map(|fact| fact.remove("seq"))),
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        let mut wrong = right.clone();
        fault(&mut wrong);
        assert!(matches(&wrong).is_err(), "fault {number}");
    }
}

#[test]
fn every_field_of_a_check_is_described() {
    let schema: Value = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    let mut found = Vec::new();
    undescribed(&schema, "", &mut found);
    assert!(found.is_empty(), "no description: {found:#?}");
}
