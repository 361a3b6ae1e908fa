//! JSON as Python writes it: `NaN`, `Infinity` and `-Infinity` are accepted, and read as strings.

use serde::de::DeserializeOwned;

/// Parses strict JSON, or JSON with Python's names for numbers that are not finite. A field that must be a number
/// does not accept them.
///
/// # Errors
/// The error of the strict parser.
pub fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(json).or_else(|error| match without_non_finite(json) {
        Some(json) => serde_json::from_slice(&json),
        None => Err(error),
    })
}

/// Puts the three names in quotes where they are not part of a string; `None` if there are none.
fn without_non_finite(json: &[u8]) -> Option<Vec<u8>> {
    const NAMES: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
    let mut replaced = Vec::with_capacity(json.len());
    let mut found = false;
    let (mut in_string, mut escaped) = (false, false);
    let mut rest = json;
    while let Some((&byte, tail)) = rest.split_first() {
        let name = NAMES.into_iter().find(|name| !in_string && rest.starts_with(name));
        if let Some(name) = name {
            replaced.push(b'"');
            replaced.extend_from_slice(name);
            replaced.push(b'"');
            rest = &rest[name.len()..];
            found = true;
            continue;
        }
        match byte {
            b'"' if !escaped => in_string = !in_string,
            _ => {}
        }
        escaped = in_string && byte == b'\\' && !escaped;
        replaced.push(byte);
        rest = tail;
    }
    found.then_some(replaced)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn numbers_that_are_not_finite_are_strings() {
        for (text, value) in [
            (r#"{"a": NaN}"#, json!({"a": "NaN"})),
            (
                r#"{"a": [Infinity, -Infinity, 1]}"#,
                json!({"a": ["Infinity", "-Infinity", 1]}),
            ),
            (
                r#"{"NaN": "Infinity", "b": NaN}"#,
                json!({"NaN": "Infinity", "b": "NaN"}),
            ),
            (
                r#"{"a\"NaN": "\\", "b": -Infinity}"#,
                json!({"a\"NaN": "\\", "b": "-Infinity"}),
            ),
            (r#"{"a": -1}"#, json!({"a": -1})),
        ] {
            assert_eq!(parse::<Value>(text.as_bytes()).unwrap(), value, "{text}");
        }
        for text in ["{", "NaNa", "{\"a\": Inf}", ""] {
            assert!(parse::<Value>(text.as_bytes()).is_err(), "{text}");
        }
    }
}
