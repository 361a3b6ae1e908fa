//! The distribution at tokens of the unmasked text: one forward pass for a whole text.

use super::computation::Piece;
pub use super::fill_mask::Which;
use super::fill_mask::{Parameters, Prediction, sort_scores};
use super::score::ascending;
use super::{InputError, Notes, Plan as TaskPlan, Planning, Size, Task, TaskModel};
use crate::lm::{Scores, Sequence, TokenScore};
use crate::text::{DecodeError, Located};

/// A request of fill-mask that reads tokens instead of masks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub texts: Vec<String>,
    pub parameters: Parameters,
    pub which: Which,
}

/// A tokenized request, and its scores.
pub struct Plan {
    top_k: usize,
    renormalize: bool,
    pad_id: Option<u32>,
    notes: Notes,
    texts: Vec<Text>,
    size: Size,
    /// The text that is submitted next.
    next: usize,
    scores: Vec<Scores>,
}

struct Text {
    sequence: std::sync::Arc<Sequence>,
    /// For each readout position its index without special tokens, and its bytes in the text.
    places: Vec<(usize, (usize, usize))>,
    has_masks: bool,
}

/// The answer to a request, before its strings are decoded.
pub struct Answer {
    pad_id: Option<u32>,
    texts: Vec<Text>,
    /// For each text and row the predictions, best first.
    predictions: Vec<Scores>,
    /// For each text and row the score of the token that is there.
    own: Vec<Vec<TokenScore>>,
}

/// One token of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its index among the tokens of the text, without special tokens.
    pub position: usize,
    /// Bytes in the text.
    pub start: usize,
    pub end: usize,
    pub token: u32,
    pub token_str: String,
    /// The probability of this token, among the whole vocabulary.
    pub score: f32,
}

impl Task for Request {
    type Plan = Plan;

    async fn plan(&self, model: &TaskModel, texts_max: usize) -> Result<Plan, InputError> {
        let Self {
            texts,
            parameters,
            which,
        } = self;
        let targets = parameters.targets.as_deref().unwrap_or_default();
        let mut planning = Planning::begin(model, texts, targets, parameters.length, texts_max).await?;
        let scoring = model.scoring(parameters, &mut planning.budget).await?;
        let list = match which {
            Which::All => None,
            Which::List(indices) => Some(ascending(indices)),
        };
        let mut planned = Vec::with_capacity(texts.len());
        for text in texts {
            let located = planning.encode_located(text).await?;
            let positions = readout_positions(&located, list.as_deref()).map_err(|error| planning.of_text(error))?;
            let encoded = located.encoded;
            let tokens = encoded.token_ids.len();
            planning.add_predictions(positions.len() * scoring.top_k, tokens)?;
            planning.add_sequences(1, tokens, positions.len())?;
            let own = encoded.word_ids.iter().enumerate().filter(|(_, word)| word.is_some());
            let own: Vec<usize> = own.map(|(position, _)| position).collect();
            let places = positions.iter().map(|&index| (index, located.offsets[own[index]]));
            let text = Text {
                places: places.collect(),
                has_masks: encoded.token_ids.contains(&model.tokenizer.mask_id()),
                sequence: std::sync::Arc::new(
                    Sequence::new(
                        encoded.token_ids,
                        positions.iter().map(|&index| own[index]).collect::<Vec<_>>(),
                        scoring.select.clone(),
                    )
                    .with_own(),
                ),
            };
            planning.add_scores(text.sequence.readout.scores())?;
            planned.push(text);
        }
        Ok(Plan {
            top_k: scoring.top_k,
            renormalize: scoring.renormalize,
            pad_id: model.tokenizer.pad_id(),
            notes: Notes {
                replaced_targets: scoring.replaced_targets,
                ..planning.notes()
            },
            scores: Vec::new(),
            texts: planned,
            size: planning.size(),
            next: 0,
        })
    }
}

/// The indices to read, ascending, counted without special tokens.
fn readout_positions(located: &Located, list: Option<&[usize]>) -> Result<Vec<usize>, InputError> {
    let tokens = located.encoded.word_ids.iter().flatten().count();
    match list {
        None => Ok((0..tokens).collect()),
        Some(list) => match list.last() {
            Some(&index) if index >= tokens => Err(InputError::NoSuchToken { index, tokens }),
            _ => Ok(list.to_vec()),
        },
    }
}

impl TaskPlan for Plan {
    type Answer = Answer;

    fn task(&self) -> &'static str {
        "positions"
    }

    fn size(&self) -> Size {
        self.size
    }

    fn bytes(&self) -> usize {
        let of_texts = self.texts.iter().map(|text| {
            text.places.len() * size_of::<(usize, (usize, usize))>()
                + text.sequence.readout.scores() * size_of::<TokenScore>()
        });
        self.size.tokens * size_of::<u32>() + of_texts.sum::<usize>()
    }

    fn entries(&self) -> usize {
        self.texts.iter().map(|text| text.places.len() * self.top_k).sum()
    }

    async fn next_piece(&mut self) -> Piece {
        let mut piece = Piece::default();
        while let Some(text) = self.texts.get(self.next)
            && !piece.is_full()
        {
            // A text of special tokens alone has no row.
            if !text.places.is_empty() {
                piece.share(&text.sequence);
            }
            self.next += 1;
        }
        piece
    }

    fn take(&mut self, scores: Vec<Scores>) {
        self.scores.extend(scores);
    }

    fn finish(self) -> Answer {
        let mut scored = self.scores.into_iter();
        let (mut predictions, mut own) = (Vec::new(), Vec::new());
        for text in &self.texts {
            let mut of_text = match text.places.is_empty() {
                true => Vec::new(),
                false => scored.next().unwrap_or_default(),
            };
            own.push(of_text.iter_mut().filter_map(Vec::pop).collect());
            of_text
                .iter_mut()
                .for_each(|scores| sort_scores(scores, self.top_k, self.renormalize));
            predictions.push(of_text);
        }
        Answer {
            pad_id: self.pad_id,
            texts: self.texts,
            predictions,
            own,
        }
    }

    fn notes(&self) -> Notes {
        self.notes.clone()
    }
}

impl Answer {
    pub fn texts(&self) -> usize {
        self.texts.len()
    }

    /// The number of rows of a text.
    pub fn rows(&self, text: usize) -> usize {
        self.own[text].len()
    }

    /// The number of predictions of a row.
    pub fn predictions(&self, text: usize, row: usize) -> usize {
        self.predictions[text][row].len()
    }

    /// About as many bytes as the answer has in JSON, mostly more.
    pub fn bytes_estimate(&self) -> usize {
        let of_texts = self.texts.iter().zip(&self.predictions).map(|(text, rows)| {
            let predictions = rows.iter().map(Vec::len).sum::<usize>();
            rows.len() * 128 + predictions * (128 + 16 * text.sequence.tokens())
        });
        of_texts.sum()
    }

    /// One row without its predictions.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn row(&self, model: &TaskModel, text: usize, row: usize) -> Result<Row, DecodeError> {
        let own = self.own[text][row];
        let (position, (start, end)) = self.texts[text].places[row];
        Ok(Row {
            position,
            start,
            end,
            token: own.token,
            token_str: model.tokenizer.decode(&[own.token], false)?,
            score: own.probability(),
        })
    }

    /// Decodes one prediction of a row.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn prediction(
        &self,
        model: &TaskModel,
        text: usize,
        row: usize,
        rank: usize,
    ) -> Result<Prediction, DecodeError> {
        let Text {
            sequence, has_masks, ..
        } = &self.texts[text];
        let score = self.predictions[text][row][rank];
        let mut shown = sequence.token_ids.clone();
        shown[sequence.readout.positions[row]] = score.token;
        shown.retain(|&id| Some(id) != self.pad_id);
        Ok(Prediction {
            score: score.probability(),
            token: score.token,
            token_str: model.tokenizer.decode(&[score.token], false)?,
            // As in fill-mask: special tokens stay where masks are among them.
            sequence: model.tokenizer.decode(&shown, !has_masks)?,
        })
    }
}
