//! Checks a value against what our schemas use of JSON Schema.

use serde_json::Value;

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
