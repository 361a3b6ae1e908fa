//! Answers as JSON, in the shapes of transformers' pipeline.

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use crate::tasks::fill_mask::{Prediction, TextAnswer};

/// The answer to one request. A list of one element stands without the list around it: the answer to a request of one text,
/// and the predictions of a text with one mask.
#[derive(Clone, Copy, Debug)]
pub struct FillMaskResponse<'a>(pub &'a [TextAnswer]);

impl Serialize for FillMaskResponse<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        one_or_list(self.0, Text, serializer)
    }
}

struct Text<'a>(&'a TextAnswer);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        one_or_list(self.0, Mask, serializer)
    }
}

struct Mask<'a>(&'a Vec<Prediction>);

impl Serialize for Mask<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(OnePrediction))
    }
}

struct OnePrediction<'a>(&'a Prediction);

impl Serialize for OnePrediction<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Prediction {
            score,
            token,
            token_str,
            sequence,
        } = self.0;
        let mut fields = serializer.serialize_struct("Prediction", 4)?;
        fields.serialize_field("score", score)?;
        fields.serialize_field("token", token)?;
        fields.serialize_field("token_str", token_str)?;
        fields.serialize_field("sequence", sequence)?;
        fields.end()
    }
}

fn one_or_list<'a, T, W: Serialize, S: Serializer>(
    list: &'a [T],
    wrap: fn(&'a T) -> W,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match list {
        [one] => wrap(one).serialize(serializer),
        list => serializer.collect_seq(list.iter().map(wrap)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(texts: &[TextAnswer]) -> String {
        serde_json::to_string(&FillMaskResponse(texts)).unwrap()
    }

    #[test]
    fn lists_of_one_are_unwrapped() {
        let prediction = |token: u32| Prediction {
            score: 0.5,
            token,
            token_str: "cat".to_owned(),
            sequence: "a \"cat\"".to_owned(),
        };
        let written =
            |token: u32| format!(r#"{{"score":0.5,"token":{token},"token_str":"cat","sequence":"a \"cat\""}}"#);
        let one_mask = || vec![vec![prediction(1), prediction(2)]];
        let two_masks = || vec![vec![prediction(1)], vec![prediction(2)]];
        let (one, two) = (written(1), written(2));
        for (texts, expected) in [
            (vec![one_mask()], format!("[{one},{two}]")),
            (vec![two_masks()], format!("[[{one}],[{two}]]")),
            (vec![one_mask(), one_mask()], format!("[[{one},{two}],[{one},{two}]]")),
            (
                vec![two_masks(), one_mask()],
                format!("[[[{one}],[{two}]],[{one},{two}]]"),
            ),
        ] {
            assert_eq!(json(&texts), expected);
        }
    }
}
