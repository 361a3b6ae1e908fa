//! Answers as JSON, in the shapes of transformers' pipeline.

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use crate::tasks::fill_mask::{Answer, FillMask, Index, Prediction};
use crate::text::DecodeError;
use crate::work;

/// Writes the answer to one request as JSON, piece by piece, so that a long answer is never in memory as a whole.
///
/// A list of one element stands without the list around it: the answer to a request of one text, and the predictions of a
/// text with one mask.
#[derive(Debug)]
pub struct AnswerJson {
    answer: Answer,
    /// The prediction that is next; `None` once all are written.
    next: Option<Index>,
}

impl AnswerJson {
    /// The answer to a request of at least one text.
    pub fn new(answer: Answer) -> Self {
        Self {
            answer,
            next: Some(Index::default()),
        }
    }

    /// True once the whole answer is written.
    pub fn is_complete(&self) -> bool {
        self.next.is_none()
    }

    /// Appends predictions to `json` until it holds `bytes` bytes or the answer is complete.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn write(&mut self, task: &FillMask, json: &mut Vec<u8>, bytes: usize) -> Result<(), DecodeError> {
        work::run_to_end(self.write_in_slices(task, json, bytes))
    }

    /// The same with checkpoints, for a [`WorkPool`](crate::work::WorkPool).
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub async fn write_in_slices(
        &mut self,
        task: &FillMask,
        json: &mut Vec<u8>,
        bytes: usize,
    ) -> Result<(), DecodeError> {
        while let Some(index) = self.next
            && json.len() < bytes
        {
            self.open(index, json);
            if index.rank < self.answer.predictions(index.text, index.mask) {
                let prediction = task.prediction(&self.answer, index)?;
                serde_json::to_writer(&mut *json, &OnePrediction(&prediction)).expect("memory takes every byte");
            }
            self.next = self.close(index, json);
            work::checkpoint().await;
        }
        Ok(())
    }

    /// Writes commas and brackets before a prediction.
    fn open(&self, Index { text, mask, rank }: Index, json: &mut Vec<u8>) {
        if rank > 0 {
            return json.push(b',');
        }
        if mask > 0 {
            json.push(b',');
        } else {
            if text > 0 {
                json.push(b',');
            } else if self.answer.texts() != 1 {
                json.push(b'[');
            }
            if self.answer.masks(text) != 1 {
                json.push(b'[');
            }
        }
        json.push(b'[');
    }

    /// Writes brackets after a prediction; returns the next.
    fn close(&self, Index { text, mask, rank }: Index, json: &mut Vec<u8>) -> Option<Index> {
        let answer = &self.answer;
        if rank + 1 < answer.predictions(text, mask) {
            let rank = rank + 1;
            return Some(Index { text, mask, rank });
        }
        json.push(b']');
        if mask + 1 < answer.masks(text) {
            let mask = mask + 1;
            return Some(Index { text, mask, rank: 0 });
        }
        if answer.masks(text) != 1 {
            json.push(b']');
        }
        if text + 1 < answer.texts() {
            let text = text + 1;
            return Some(Index { text, mask: 0, rank: 0 });
        }
        if answer.texts() != 1 {
            json.push(b']');
        }
        None
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lm::{PretrainedModel, Scores, TokenScore};
    use crate::tasks::fill_mask::{Parameters, Request};

    /// The JSON of the answer to `texts`, in which every mask has as many scores as given, written in pieces of `bytes`.
    fn json(texts: &[&str], predictions: usize, bytes: usize) -> (String, usize) {
        let model = PretrainedModel::embedded().unwrap();
        let task = FillMask::new(model.tokenizer, &model.info, 64);
        let request = Request {
            texts: texts.iter().map(|&text| text.to_owned()).collect(),
            parameters: Parameters::default(),
        };
        let plan = task.plan(&request, 8).unwrap();
        let of_mask: Vec<TokenScore> = (0..predictions as u32)
            .map(|rank| TokenScore {
                token: 5 + rank,
                log_prob: 0.5_f32.powi(rank as i32 + 1).ln(),
            })
            .collect();
        let scores = plan.sequences.iter();
        let scores = scores.map(|sequence| vec![of_mask.clone(); sequence.readout.positions.len()]);
        let mut writer = AnswerJson::new(Answer::new(plan.clone(), scores.collect::<Vec<Scores>>()));
        let (mut json, mut pieces) = (Vec::new(), 0);
        while !writer.is_complete() {
            let mut piece = Vec::new();
            writer.write(&task, &mut piece, bytes).unwrap();
            json.append(&mut piece);
            pieces += 1;
        }
        (String::from_utf8(json).unwrap(), pieces)
    }

    #[test]
    fn lists_of_one_are_unwrapped() {
        let shape = |texts: &[&str], predictions| {
            let (json, _) = json(texts, predictions, usize::MAX);
            let value: serde_json::Value = serde_json::from_str(&json).unwrap();
            fn shape(value: &serde_json::Value) -> String {
                match value.as_array() {
                    Some(list) => format!("[{}]", list.iter().map(shape).collect::<String>()),
                    None => "p".to_owned(),
                }
            }
            shape(&value)
        };
        assert_eq!(shape(&["[MASK]"], 2), "[pp]");
        assert_eq!(shape(&["[MASK] [MASK]"], 2), "[[pp][pp]]");
        assert_eq!(shape(&["[MASK]", "[MASK]"], 1), "[[p][p]]");
        assert_eq!(shape(&["[MASK] [MASK]", "[MASK]"], 1), "[[[p][p]][p]]");
        assert_eq!(shape(&["[MASK]"], 0), "[]");
    }

    #[test]
    fn a_prediction_has_the_fields_of_transformers_in_its_order() {
        let (json, _) = json(&["the \"[MASK]\""], 1, usize::MAX);
        assert_eq!(
            json,
            r#"[{"score":0.5,"token":5,"token_str":"!","sequence":"the \"! \""}]"#
        );
    }

    #[test]
    fn pieces_join_to_the_whole() {
        let texts = ["[MASK] and [MASK]", "the [MASK]"];
        let (whole, pieces) = json(&texts, 3, usize::MAX);
        assert_eq!(pieces, 1);
        for bytes in [1, 100, 200, 1000] {
            let (joined, pieces) = json(&texts, 3, bytes);
            assert_eq!(joined, whole);
            assert_eq!(pieces > 1, bytes < whole.len());
        }
    }
}
