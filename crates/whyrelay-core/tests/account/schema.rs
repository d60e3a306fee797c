//! The JSON account matches docs/report.schema.json, and the schema is no looser than it looks.

use serde_json::Value;
use whyrelay_core::report::{Report, render_json};
use whyrelay_core::trace::event::Vantage;

use crate::builder::Fate;
use crate::json_schema::check;
use crate::report::{direct, failed, finish_relayed, relayed};

const SCHEMA: &str = include_str!("../../../../docs/report.schema.json");

fn matches(text: &str) -> Result<(), String> {
    let schema: Value = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    let value: Value = serde_json::from_str(text).expect("the account is JSON");
    check(&schema, &schema, &value, "")
}

#[test]
fn every_account_matches_the_schema() {
    let mut through_a_relay = relayed();
    finish_relayed(&mut through_a_relay);
    let lost = failed(Fate::LostOnTheWay, Fate::Error(400));
    for events in [
        direct().events,
        through_a_relay.events,
        lost.of(Vantage::A),
        lost.of(Vantage::B),
        lost.events.clone(),
        failed(Fate::Ignored, Fate::AnswerLost).events,
        failed(Fate::SendRefused(1), Fate::AnswerLost).events,
        vec![],
    ]
    .into_iter()
    .chain(crate::cases::all().into_iter().map(|case| case.session.events))
    {
        let mut report = Report::from_events(&events);
        matches(&render_json(&report)).unwrap_or_else(|error| panic!("{error}"));
        report.prove(&lost.events, &events);
        let text = render_json(&report);
        matches(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    }
}

#[test]
fn the_schema_refuses_what_is_wrong() {
    let right = render_json(&Report::from_events(&failed(Fate::LostOnTheWay, Fate::LostOnTheWay).events));
    for (from, to) in [
        ("\"path\": \"failed\"", "\"path\": \"lost\""),
        ("whyrelay.report/1", "whyrelay.report/2"),
        ("\"blame\": \"path\"", "\"blame\": \"nobody\""),
        ("\"seq\": ", "\"seq\": -"),
        ("\"pairs_left_out\"", "\"more\": 1, \"pairs_left_out\""),
    ] {
        assert!(right.contains(from), "{from}");
        assert!(matches(&right.replace(from, to)).is_err(), "{to}");
    }
}

/// Every field's place, where it lacks a description.
pub(crate) fn undescribed(schema: &Value, at: &str, found: &mut Vec<String>) {
    for (name, rule) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let at = format!("{at}/{name}");
        if rule.get("description").and_then(Value::as_str).is_none_or(str::is_empty) {
            found.push(at.clone());
        }
        undescribed(rule, &at, found);
    }
    for name in ["items", "additionalProperties"] {
        if let Some(rule) = schema.get(name) {
            undescribed(rule, at, found);
        }
    }
    let lists = schema.get("anyOf").and_then(Value::as_array).into_iter().flatten();
    lists.for_each(|rule| undescribed(rule, at, found));
    for (name, rule) in schema.get("$defs").and_then(Value::as_object).into_iter().flatten() {
        undescribed(rule, &format!("#{name}"), found);
    }
}

#[test]
fn every_field_is_described() {
    let schema: Value = serde_json::from_str(SCHEMA).expect("the schema is JSON");
    let mut found = Vec::new();
    undescribed(&schema, "", &mut found);
    assert!(found.is_empty(), "no description: {found:#?}");
}
