//! Answers as JSON. Those of fill-mask have the shapes of transformers' pipeline.

use serde::Serialize;
use serde_json::ser::to_writer;

use crate::tasks::fill_mask::{Index, Prediction};
use crate::tasks::joint::{self, Filling};
use crate::tasks::positions::Row;
use crate::tasks::score::{ScoredToken, TextScore};
use crate::tasks::sparse;
use crate::tasks::words::{self, WordPrediction};
use crate::tasks::{AnyAnswer, TaskModel};
use crate::text::DecodeError;
use crate::work;

/// Writes the answer to one request as JSON, piece by piece, so that a long answer is never in memory as a whole.
///
/// An answer has texts, groups within a text (masks, or rows) and entries within a group (predictions). In fill-mask a
/// list of one element is written as that element: the answer to a request of one text, and the predictions of a
/// text with one mask.
pub struct AnswerJson {
    answer: AnyAnswer,
    /// The entry that is next, with the group as its mask; `None` once all are written.
    next: Option<Index>,
}

impl AnswerJson {
    /// The answer to a request of at least one text.
    pub fn new(answer: impl Into<AnyAnswer>) -> Self {
        Self {
            answer: answer.into(),
            next: Some(Index::default()),
        }
    }

    /// True once the whole answer is written.
    pub fn is_complete(&self) -> bool {
        self.next.is_none()
    }

    /// Appends entries to `json` until it holds `bytes` bytes or the answer is complete.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn write(&mut self, model: &TaskModel, json: &mut Vec<u8>, bytes: usize) -> Result<(), DecodeError> {
        work::run_to_end(self.write_in_slices(model, json, bytes))
    }

    /// The same with checkpoints, for a [`WorkPool`](crate::work::WorkPool).
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub async fn write_in_slices(
        &mut self,
        model: &TaskModel,
        json: &mut Vec<u8>,
        bytes: usize,
    ) -> Result<(), DecodeError> {
        while let Some(index) = self.next
            && json.len() < bytes
        {
            let has_group = index.mask < self.groups(index.text);
            self.open(model, index, has_group, json)?;
            if has_group && index.rank < self.entries(index) {
                self.entry(model, index, json)?;
            }
            self.next = self.close(index, has_group, json);
            work::checkpoint().await;
        }
        Ok(())
    }

    /// True if the texts stand in a list.
    fn is_list(&self) -> bool {
        match &self.answer {
            AnyAnswer::Score(answer) => answer.is_list,
            AnyAnswer::Sparse(_) => true,
            answer => answer.texts() != 1,
        }
    }

    fn groups(&self, text: usize) -> usize {
        match &self.answer {
            AnyAnswer::FillMask(answer) => answer.masks(text),
            AnyAnswer::Words(answer) => answer.masks(text),
            AnyAnswer::Positions(answer) => answer.rows(text),
            AnyAnswer::Joint(_) | AnyAnswer::Score(_) | AnyAnswer::Sparse(_) => 1,
        }
    }

    /// True if the groups of a text stand in a list.
    fn has_group_list(&self, text: usize) -> bool {
        match &self.answer {
            AnyAnswer::FillMask(_) | AnyAnswer::Words(_) => self.groups(text) != 1,
            AnyAnswer::Positions(_) => true,
            AnyAnswer::Joint(_) | AnyAnswer::Score(_) | AnyAnswer::Sparse(_) => false,
        }
    }

    fn entries(&self, Index { text, mask, .. }: Index) -> usize {
        match &self.answer {
            AnyAnswer::FillMask(answer) => answer.predictions(text, mask),
            AnyAnswer::Words(answer) => answer.predictions(text, mask),
            AnyAnswer::Positions(answer) => answer.predictions(text, mask),
            AnyAnswer::Joint(answer) => answer.fillings(text),
            AnyAnswer::Score(_) => 1,
            AnyAnswer::Sparse(answer) => answer.entries(text),
        }
    }

    /// Writes commas and brackets before an entry.
    fn open(&self, model: &TaskModel, index: Index, has_group: bool, json: &mut Vec<u8>) -> Result<(), DecodeError> {
        let Index { text, mask, rank } = index;
        if rank > 0 {
            json.push(b',');
            return Ok(());
        }
        if mask > 0 {
            json.push(b',');
        } else {
            if text > 0 {
                json.push(b',');
            } else if self.is_list() {
                json.push(b'[');
            }
            if self.has_group_list(text) {
                json.push(b'[');
            }
        }
        match &self.answer {
            _ if !has_group => {}
            AnyAnswer::Score(_) => {}
            AnyAnswer::Positions(answer) => {
                write(&RowJson::from(answer.row(model, text, mask)?), json);
                // The predictions are its last field.
                json.pop();
                json.extend_from_slice(b",\"predictions\":[");
            }
            _ => json.push(b'['),
        }
        Ok(())
    }

    fn entry(&self, model: &TaskModel, index: Index, json: &mut Vec<u8>) -> Result<(), DecodeError> {
        let Index { text, mask, rank } = index;
        match &self.answer {
            AnyAnswer::FillMask(answer) => write(&PredictionJson::from(&model.prediction(answer, index)?), json),
            AnyAnswer::Words(answer) => {
                let prediction = answer.prediction(model, text, mask, rank)?;
                write(&WordJson::from(&prediction), json);
            }
            AnyAnswer::Positions(answer) => {
                let prediction = answer.prediction(model, text, mask, rank)?;
                write(&PredictionJson::from(&prediction), json);
            }
            AnyAnswer::Joint(answer) => write(&FillingJson::from(&answer.filling(model, text, rank)?), json),
            AnyAnswer::Sparse(answer) => write(&EntryJson::from(answer.entry(text, rank)), json),
            AnyAnswer::Score(answer) => write(&ScoreJson::from(&answer.score(model, text)?), json),
        }
        Ok(())
    }

    /// Writes brackets after an entry; returns the next.
    fn close(&self, index: Index, has_group: bool, json: &mut Vec<u8>) -> Option<Index> {
        let Index { text, mask, rank } = index;
        if has_group {
            if rank + 1 < self.entries(index) {
                return Some(Index {
                    rank: rank + 1,
                    ..index
                });
            }
            match &self.answer {
                AnyAnswer::Score(_) => {}
                AnyAnswer::Positions(_) => json.extend_from_slice(b"]}"),
                _ => json.push(b']'),
            }
        }
        if mask + 1 < self.groups(text) {
            let mask = mask + 1;
            return Some(Index { text, mask, rank: 0 });
        }
        if self.has_group_list(text) {
            json.push(b']');
        }
        if text + 1 < self.answer.texts() {
            let text = text + 1;
            return Some(Index { text, mask: 0, rank: 0 });
        }
        if self.is_list() {
            json.push(b']');
        }
        None
    }
}

fn write(value: &impl Serialize, json: &mut Vec<u8>) {
    to_writer(json, value).expect("memory takes every byte");
}

#[derive(Serialize)]
struct PredictionJson<'a> {
    score: f32,
    token: u32,
    token_str: &'a str,
    sequence: &'a str,
}

impl<'a> From<&'a Prediction> for PredictionJson<'a> {
    fn from(prediction: &'a Prediction) -> Self {
        Self {
            score: prediction.score,
            token: prediction.token,
            token_str: &prediction.token_str,
            sequence: &prediction.sequence,
        }
    }
}

#[derive(Serialize)]
struct WordJson<'a> {
    score: f32,
    /// The first of its tokens.
    token: u32,
    token_str: &'a str,
    sequence: &'a str,
    tokens: &'a [u32],
    log_prob: f64,
    log_prob_per_token: f64,
    method: &'static str,
}

impl<'a> From<&'a WordPrediction> for WordJson<'a> {
    fn from(word: &'a WordPrediction) -> Self {
        Self {
            score: word.score,
            token: word.tokens[0],
            token_str: &word.token_str,
            sequence: &word.sequence,
            tokens: &word.tokens,
            log_prob: word.log_prob,
            log_prob_per_token: word.log_prob / word.tokens.len() as f64,
            method: match word.method {
                words::Method::LeftToRight => "left_to_right",
                words::Method::Pll => "pll",
            },
        }
    }
}

#[derive(Serialize)]
struct FillingJson<'a> {
    log_score: f64,
    tokens: &'a [u32],
    token_strs: &'a [String],
    sequence: &'a str,
    order: &'static str,
}

impl<'a> From<&'a Filling> for FillingJson<'a> {
    fn from(filling: &'a Filling) -> Self {
        Self {
            log_score: filling.log_score,
            tokens: &filling.tokens,
            token_strs: &filling.token_strs,
            sequence: &filling.sequence,
            order: match filling.order {
                joint::Order::LeftToRight => "left_to_right",
                joint::Order::MostCertainFirst => "most_certain_first",
            },
        }
    }
}

#[derive(Serialize)]
struct RowJson {
    position: usize,
    start: usize,
    end: usize,
    token: u32,
    token_str: String,
    score: f32,
}

impl From<Row> for RowJson {
    fn from(row: Row) -> Self {
        Self {
            position: row.position,
            start: row.start,
            end: row.end,
            token: row.token,
            token_str: row.token_str,
            score: row.score,
        }
    }
}

#[derive(Serialize)]
struct EntryJson {
    index: u32,
    value: f32,
}

impl From<sparse::Entry> for EntryJson {
    fn from(entry: sparse::Entry) -> Self {
        Self {
            index: entry.index,
            value: entry.value,
        }
    }
}

#[derive(Serialize)]
struct ScoreJson<'a> {
    score: f64,
    tokens: usize,
    perplexity: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_scores: Option<Vec<TokenJson<'a>>>,
}

#[derive(Serialize)]
struct TokenJson<'a> {
    token: u32,
    token_str: &'a str,
    log_prob: f32,
}

impl<'a> From<&'a TextScore> for ScoreJson<'a> {
    fn from(text: &'a TextScore) -> Self {
        let token = |scored: &'a ScoredToken| TokenJson {
            token: scored.token,
            token_str: &scored.token_str,
            log_prob: scored.log_prob,
        };
        Self {
            score: text.score,
            tokens: text.tokens,
            perplexity: text.perplexity,
            token_scores: text
                .token_scores
                .as_ref()
                .map(|scores| scores.iter().map(token).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lm::{PretrainedModel, Scores, TokenScore};
    use crate::tasks::fill_mask::{Answer, Parameters, Request};

    /// The JSON of the answer to `texts`, in which every mask has as many scores as given, written in pieces of
    /// `bytes`.
    fn json(texts: &[&str], predictions: usize, bytes: usize) -> (String, usize) {
        let model = PretrainedModel::embedded().unwrap();
        let task = TaskModel::new(model.tokenizer, &model.info, 64);
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
