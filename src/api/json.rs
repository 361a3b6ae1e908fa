//! JSON values in the forms that clients write them.

use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Unexpected, Visitor};

use super::Error;
use crate::sys::excerpt;

/// A JSON object. Serde alone would also accept a list of a struct's fields in order, and an empty list where all of
/// them are optional.
pub struct JsonObject<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for JsonObject<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = JsonObject<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<JsonObject<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields)).map(JsonObject)
            }
        }
        deserializer.deserialize_map(Fields(PhantomData))
    }
}

/// A whole number. JSON writers of some languages write 2 as `2.0`.
pub struct WholeNumber(pub i64);

impl<'de> Deserialize<'de> for WholeNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = WholeNumber;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_i64<E>(self, number: i64) -> Result<WholeNumber, E> {
                Ok(WholeNumber(number))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<WholeNumber, E> {
                let signed = i64::try_from(number);
                signed
                    .map(WholeNumber)
                    .map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<WholeNumber, E> {
                // Up to here all whole numbers are exact.
                const EXACT_MAX: f64 = (1u64 << 53) as f64;
                match number.fract() == 0.0 && number.abs() <= EXACT_MAX {
                    true => Ok(WholeNumber(number as i64)),
                    false => Err(E::invalid_value(Unexpected::Float(number), &self)),
                }
            }
        }
        deserializer.deserialize_any(Number)
    }
}

/// A whole number of 0 or more, in any notation of [`WholeNumber`].
pub struct Count(pub u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let WholeNumber(number) = WholeNumber::deserialize(deserializer)?;
        let count = u64::try_from(number).map(Count);
        let expected = "a whole number of 0 or more";
        count.map_err(|_| de::Error::invalid_value(Unexpected::Signed(number), &expected))
    }
}

/// One of some names. Serde alone would also accept an object with the name as its only key, and call any other value
/// broken JSON.
#[derive(Clone, Copy)]
pub struct Name<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Name<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Text<T> {
            type Value = Name<T>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Name<T>, E> {
                T::deserialize(StrDeserializer::new(name)).map(Name)
            }
        }
        deserializer.deserialize_str(Text(PhantomData))
    }
}

/// Strings of one list. A short string takes ten times as much memory as in JSON, so that a longer list is not read to
/// its end; no request may have as many texts.
const STRINGS_MAX: usize = 1 << 20;

/// Appends a string of a list.
///
/// # Errors
/// When the list is too long.
pub fn push_string<E: de::Error>(strings: &mut Vec<String>, string: String) -> Result<(), E> {
    if strings.len() == STRINGS_MAX {
        let message = format_args!("a list has more than {STRINGS_MAX} strings");
        return Err(E::custom(message));
    }
    strings.push(string);
    Ok(())
}

/// A string, or a list of strings.
pub struct OneOrMany {
    pub strings: Vec<String>,
    pub is_list: bool,
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Strings;
        impl<'de> Visitor<'de> for Strings {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany {
                    strings: vec![text.to_owned()],
                    is_list: false,
                })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMany, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    push_string(&mut texts, text)?;
                }
                Ok(OneOrMany {
                    strings: texts,
                    is_list: true,
                })
            }
        }
        deserializer.deserialize_any(Strings)
    }
}

impl OneOrMany {
    /// The texts of a request.
    ///
    /// # Errors
    /// An empty list.
    pub fn texts(self) -> Result<Vec<String>, Error> {
        match self.strings.is_empty() {
            true => Err(Error::bad_request(
                "empty",
                "inputs is an empty list; send at least one text.",
            )),
            false => Ok(self.strings),
        }
    }
}

/// A number from 0 on.
///
/// # Errors
/// A negative number, which `name` has.
pub fn not_negative(WholeNumber(number): WholeNumber, name: &str, error_type: &'static str) -> Result<usize, Error> {
    usize::try_from(number)
        .map_err(|_| Error::bad_request(error_type, format!("{name} is {number}; it must be 0 or more.")))
}

/// Indices of tokens in one request; no text has as many tokens.
const INDICES_MAX: usize = 65_536;

/// A list of token indices, each of which is `name`.
///
/// # Errors
/// A negative index, and too long a list.
pub fn indices(list: Vec<WholeNumber>, name: &str) -> Result<Vec<usize>, Error> {
    if list.len() > INDICES_MAX {
        let message = format!(
            "There are {} token indexes and at most {INDICES_MAX} are allowed; name fewer.",
            list.len()
        );
        return Err(Error::bad_request("bad_positions", message));
    }
    list.into_iter()
        .map(|index| not_negative(index, name, "bad_positions"))
        .collect()
}

/// The error of a body that is not JSON, or not of the type that `expected` names; `hint` is a sentence without its
/// period.
pub fn json_error(error: &serde_json::Error, expected: &str, hint: &str) -> Error {
    let (error_type, problem) = match error.classify() {
        serde_json::error::Category::Data => ("bad_request", format!("The JSON is not {expected}")),
        _ => ("not_json", "The body is not valid JSON".to_owned()),
    };
    Error::bad_request(
        error_type,
        format!("{problem}: {}. {hint}.", excerpt::sentence(&error.to_string())),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_too_many_strings_is_not_read_to_its_end() {
        let list = |strings: usize| format!("[{}\"\"]", "\"\",".repeat(strings - 1));
        let longest: OneOrMany = serde_json::from_str(&list(STRINGS_MAX)).unwrap();
        assert_eq!(longest.strings.len(), STRINGS_MAX);
        let error = serde_json::from_str::<OneOrMany>(&list(STRINGS_MAX + 1000))
            .err()
            .unwrap();
        assert!(
            error.to_string().starts_with("a list has more than 1048576 strings"),
            "{error}"
        );
    }
}
