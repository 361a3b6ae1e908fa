//! Several masks of a text filled together: beam search over the conditional distributions of the masks.
//!
//! The score of a filling is a sum of log-probabilities by the chain rule, one mask after the other with the masks
//! before it filled. A masked language model has no single joint distribution: the sum depends on the order (Hennigen &
//! Kim 2023, <https://arxiv.org/abs/2305.15501>).
//!
//! | file | subject |
//! |---|---|
//! | `beam` | the search: hypotheses, their extensions, the beam |
//! | `answer` | the fillings that it found |

mod answer;
mod beam;
#[cfg(test)]
mod tests;

use super::computation::{PIECE_BYTES, Piece};
pub use super::fill_mask::{JointOptions as Options, Order};
use super::fill_mask::{Parameters, TOP_K_DEFAULT};
use super::{InputError, Notes, Plan as TaskPlan, Planning, Size, Task, TaskModel};
use crate::lm::{Scores, Select, Sequence, TokenScore};
use crate::work;
pub use answer::{Answer, Filling};
use beam::{Extensions, Hypothesis, best_fillings, next_beam};

/// The widest beam.
const BEAM_MAX: usize = 64;

/// The most fillings of one text.
const FILLINGS_MAX: usize = 1_000;

/// A request of fill-mask whose masks are filled together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub texts: Vec<String>,
    pub parameters: Parameters,
    pub options: Options,
}

/// A tokenized request, and the state of the search.
pub struct Plan {
    options: Options,
    top_k: usize,
    vocab_size: usize,
    pad_id: Option<u32>,
    notes: Notes,
    texts: Vec<Text>,
    size: Size,
    /// Text and place in its beam of the hypotheses of this round.
    round: Vec<(usize, usize)>,
    /// The hypothesis of the round that is submitted next.
    submitted: usize,
    /// The extensions of the hypotheses of the round, so far.
    extensions: Vec<Extensions>,
}

struct Text {
    token_ids: Vec<u32>,
    /// Positions of the masks.
    masks: Vec<usize>,
    beam: Vec<Hypothesis>,
    /// Complete fillings, best first.
    fillings: Vec<Hypothesis>,
}

impl Task for Request {
    type Plan = Plan;

    async fn plan(&self, model: &TaskModel, texts_max: usize) -> Result<Plan, InputError> {
        let Self {
            texts,
            parameters,
            options,
        } = self;
        if parameters.targets.is_some() || parameters.renormalize {
            return Err(InputError::Parameters(
                "joint fills masks from the whole vocabulary; leave out targets and renormalize.",
            ));
        }
        if !(1..=BEAM_MAX).contains(&options.beam) {
            return Err(InputError::Beam {
                beam: options.beam,
                max: BEAM_MAX,
            });
        }
        let top_k = parameters.top_k.unwrap_or(TOP_K_DEFAULT);
        if !(1..=FILLINGS_MAX).contains(&top_k) {
            return Err(InputError::Fillings {
                top_k,
                max: FILLINGS_MAX,
            });
        }
        let mut planning = Planning::begin(model, texts, &[], parameters.length, texts_max).await?;
        let mut planned = Vec::with_capacity(texts.len());
        for text in texts {
            let (token_ids, masks) = planning.encode_masked(text).await?;
            planning.add_predictions(top_k, token_ids.len())?;
            options.count(masks.len(), token_ids.len(), &mut planning)?;
            planned.push(Text {
                beam: vec![Hypothesis {
                    tokens: vec![None; masks.len()],
                    log_score: 0.0,
                }],
                token_ids,
                masks,
                fillings: Vec::new(),
            });
        }
        Ok(Plan {
            options: *options,
            top_k,
            vocab_size: model.vocab_size,
            pad_id: model.tokenizer.pad_id(),
            notes: planning.notes(),
            round: (0..planned.len()).map(|text| (text, 0)).collect(),
            texts: planned,
            size: planning.size(),
            submitted: 0,
            extensions: Vec::new(),
        })
    }
}

impl Options {
    /// Counts the most sequences for a text with `masks` masks: one, then a beam of them for each further mask.
    fn count(self, masks: usize, tokens: usize, planning: &mut Planning<'_>) -> Result<(), InputError> {
        let readouts = |left: usize| match self.order {
            Order::LeftToRight => 1,
            Order::MostCertainFirst => left,
        };
        planning.add_sequences(1, tokens, readouts(masks))?;
        (1..masks).try_for_each(|filled| planning.add_sequences(self.beam, tokens, readouts(masks - filled)))
    }
}

impl Text {
    /// The text with the tokens of a hypothesis, read at its next masks.
    fn sequence(&self, hypothesis: &Hypothesis, order: Order, top_k: usize) -> Sequence {
        let mut positions: Vec<usize> = hypothesis.unfilled().map(|mask| self.masks[mask]).collect();
        if order == Order::LeftToRight {
            positions.truncate(1);
        }
        Sequence::new(self.filled(hypothesis), positions, Select::TopK(top_k))
    }

    fn filled(&self, hypothesis: &Hypothesis) -> Vec<u32> {
        let mut token_ids = self.token_ids.clone();
        for (&position, token) in self.masks.iter().zip(&hypothesis.tokens) {
            if let Some(token) = token {
                token_ids[position] = *token;
            }
        }
        token_ids
    }
}

impl Plan {
    /// Extends the hypotheses of the round, and begins the next one.
    async fn next_round(&mut self) {
        let round = std::mem::take(&mut self.round);
        let extensions = std::mem::take(&mut self.extensions);
        self.submitted = 0;
        let mut first = 0;
        while let Some(&(text, _)) = round.get(first) {
            let of_text = &mut self.texts[text];
            let beam = std::mem::take(&mut of_text.beam);
            let extensions = &extensions[first..first + beam.len()];
            first += beam.len();
            match beam[0].unfilled().count() {
                1 => of_text.fillings = best_fillings(&beam, extensions, self.top_k),
                _ => {
                    of_text.beam = next_beam(&beam, extensions, self.options.beam);
                    self.round.extend((0..of_text.beam.len()).map(|place| (text, place)));
                }
            }
            work::checkpoint().await;
        }
    }
}

impl TaskPlan for Plan {
    type Answer = Answer;

    fn task(&self) -> &'static str {
        "joint"
    }

    fn size(&self) -> Size {
        self.size
    }

    fn bytes(&self) -> usize {
        let beam = self.options.beam;
        let of_texts = self.texts.iter().map(|text| {
            let hypothesis = size_of::<Hypothesis>() + text.masks.len() * size_of::<Option<u32>>();
            let extensions = (beam + beam.max(self.top_k)) * beam * 3 * size_of::<TokenScore>();
            (2 * beam + self.top_k) * 2 * hypothesis + extensions
        });
        self.size.tokens * size_of::<u32>() + of_texts.sum::<usize>() + PIECE_BYTES
    }

    fn entries(&self) -> usize {
        self.texts.len() * self.top_k
    }

    async fn next_piece(&mut self) -> Piece {
        if self.submitted == self.round.len() {
            self.next_round().await;
        }
        let mut piece = Piece::default();
        while let Some(&(text, place)) = self.round.get(self.submitted)
            && !piece.is_full()
        {
            let text = &self.texts[text];
            let hypothesis = &text.beam[place];
            let top_k = match hypothesis.unfilled().nth(1) {
                None => self.options.beam.max(self.top_k),
                Some(_) => self.options.beam,
            };
            piece.push(text.sequence(hypothesis, self.options.order, top_k.min(self.vocab_size)));
            self.submitted += 1;
            work::checkpoint().await;
        }
        piece
    }

    fn take(&mut self, scores: Vec<Scores>) {
        for of_sequence in scores {
            let (text, place) = self.round[self.extensions.len()];
            let masks = self.texts[text].beam[place].unfilled();
            let most_certain = masks.zip(of_sequence).reduce(|best, other| {
                let certainty =
                    |tokens: &[TokenScore]| tokens.first().map_or(f32::NEG_INFINITY, |score| score.log_prob);
                if certainty(&other.1) > certainty(&best.1) {
                    other
                } else {
                    best
                }
            });
            let (mask, tokens) = most_certain.expect("a hypothesis of a round has a mask to fill");
            self.extensions.push(Extensions { mask, tokens });
        }
    }

    fn finish(self) -> Answer {
        Answer {
            order: self.options.order,
            pad_id: self.pad_id,
            texts: self.texts,
        }
    }

    fn notes(&self) -> Notes {
        self.notes.clone()
    }
}
