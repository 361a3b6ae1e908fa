//! JSON as Python writes it: `NaN`, `Infinity` and `-Infinity` are accepted, and read as strings.

use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

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

/// The keys of all objects in the order of the file; none if it is not valid.
pub fn keys(json: &[u8]) -> Vec<String> {
    let read = |json: &[u8]| {
        let mut keys = Keys(Vec::new());
        let read = keys.deserialize(&mut serde_json::Deserializer::from_slice(json));
        read.is_ok().then_some(keys.0)
    };
    let keys = read(json).or_else(|| read(&without_non_finite(json)?));
    keys.unwrap_or_default()
}

/// Collects keys.
struct Keys(Vec<String>);

impl<'de> DeserializeSeed<'de> for &mut Keys {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Keys {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key()? {
            self.0.push(key);
            map.next_value_seed(&mut *self)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(&mut *self)?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
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
        assert_eq!(
            keys(br#"{"b": [{"z": NaN, "a": null}], "a": {"c": -1, "b": "x"}, "d": 1.5, "e": true}"#),
            ["b", "z", "a", "a", "c", "b", "d", "e"]
        );
        assert!(keys(b"{\"a\": 1").is_empty());
        for text in ["{", "NaNa", "{\"a\": Inf}", ""] {
            assert!(parse::<Value>(text.as_bytes()).is_err(), "{text}");
        }
    }
}
