//! A recording in which everything that can be any text is hostile.

use serde_json::Value;
use whyrelay_core::trace::event::Event;

/// One event of each kind and value.
const SAMPLES: &str = include_str!("events.jsonl");

/// The samples of all events as lines of JSON, with this text in each field that takes it; and in how many it is.
pub(crate) fn recording(text: &str) -> (String, usize) {
    let (mut lines, mut count) = (String::new(), 0);
    for sample in SAMPLES.lines() {
        let mut event: Value = serde_json::from_str(sample).expect("the sample is JSON");
        let mut fields = Vec::new();
        strings(&event, String::new(), &mut fields);
        for field in fields {
            let place = event.pointer_mut(&field).expect("it was found there");
            let before = std::mem::replace(place, Value::String(text.to_owned()));
            if is_event(&event) {
                count += 1;
            } else if let Some(place) = event.pointer_mut(&field) {
                *place = before;
            }
        }
        lines.push_str(&event.to_string());
        lines.push('\n');
    }
    (lines, count)
}

/// Addresses, enumerations and the like refuse the text.
fn is_event(value: &Value) -> bool {
    serde_json::from_value::<Event>(value.clone()).is_ok()
}

/// Where the strings are.
fn strings(value: &Value, at: String, found: &mut Vec<String>) {
    match value {
        Value::String(_) => found.push(at),
        Value::Array(list) => {
            for (index, one) in list.iter().enumerate() {
                strings(one, format!("{at}/{index}"), found);
            }
        }
        Value::Object(fields) => {
            for (name, one) in fields {
                strings(one, format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), found);
            }
        }
        _ => {}
    }
}
