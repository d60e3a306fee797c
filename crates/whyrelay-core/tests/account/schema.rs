//! The JSON account matches docs/report.schema.json, and the schema is no looser than it looks.

use serde_json::Value;
use whyrelay_core::report::{Report, render_json};
use whyrelay_core::trace::event::Vantage;

use crate::builder::Fate;
use crate::report::{direct, failed, finish_relayed, relayed};

const SCHEMA: &str = include_str!("../../../../docs/report.schema.json");

/// What the schema uses of JSON Schema: anything else in it is an error, so that nothing is skipped silently.
pub(crate) fn check(root: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let fail = |what: &str| Err(format!("{at}: {what}: {value}"));
    for (keyword, rule) in schema.as_object().expect("a schema is an object") {
        match keyword.as_str() {
            "$schema" | "title" | "description" | "$defs" => {}
            "$ref" => {
                let name = rule.as_str().and_then(|path| path.strip_prefix("#/$defs/")).expect("a local reference");
                check(root, &root["$defs"][name], value, at)?;
            }
            "anyOf" => {
                let rules = rule.as_array().expect("a list");
                let results: Vec<_> = rules.iter().map(|rule| check(root, rule, value, at)).collect();
                if results.iter().all(Result::is_err) {
                    return results.into_iter().next().expect("at least one");
                }
            }
            "type" => {
                let right = match rule.as_str().expect("one type") {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "null" => value.is_null(),
                    "number" => value.is_number(),
                    "integer" => value.is_u64() || value.is_i64(),
                    other => panic!("type {other}"),
                };
                if !right {
                    return fail(&format!("not of type {rule}"));
                }
            }
            "const" if value != rule => return fail("another constant"),
            "enum" if !rule.as_array().expect("a list").contains(value) => return fail("not in the list"),
            "const" | "enum" => {}
            "minimum" if value.as_f64() < rule.as_f64() => return fail("too small"),
            "minimum" => {}
            "pattern" => {
                assert_eq!(rule, "^WR[0-9]{3}$");
                let code = value.as_str().unwrap_or_default();
                if code.len() != 5 || !code.starts_with("WR") || !code[2..].bytes().all(|byte| byte.is_ascii_digit()) {
                    return fail("no code");
                }
            }
            "required" => {
                for name in rule.as_array().expect("a list").iter().filter_map(Value::as_str) {
                    if value.get(name).is_none() {
                        return fail(&format!("{name} is missing"));
                    }
                }
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, rule, item, &format!("{at}/{index}"))?;
                }
            }
            "properties" => {
                for (name, rule) in rule.as_object().expect("an object") {
                    if let Some(value) = value.get(name) {
                        check(root, rule, value, &format!("{at}/{name}"))?;
                    }
                }
            }
            "additionalProperties" => {
                let known = schema.get("properties").and_then(Value::as_object);
                for (name, value) in value.as_object().into_iter().flatten() {
                    let is_known = known.is_some_and(|known| known.contains_key(name));
                    match rule {
                        Value::Bool(false) if !is_known => return fail(&format!("{name} is not in the schema")),
                        Value::Object(_) if !is_known => check(root, rule, value, &format!("{at}/{name}"))?,
                        _ => {}
                    }
                }
            }
            other => panic!("keyword {other}"),
        }
    }
    Ok(())
}

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
