//! The likelihood of a text: its pseudo-log-likelihood, one forward pass for each token.

use super::computation::{PIECE_BYTES, Piece};
use super::{InputError, Notes, Plan as TaskPlan, Planning, Size, Task, TaskModel};
use crate::lm::{Scores, Select, Sequence};
use crate::text::{DecodeError, Encoded, LengthRule};
use crate::work;

/// The tokens that are masked while one is scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// That token alone: Salazar et al. 2020, <https://aclanthology.org/2020.acl-main.240>.
    Pll,
    /// That token and the later ones of its word: Kauf & Ivanova 2023, <https://arxiv.org/abs/2305.10588>.
    #[default]
    PllWordL2r,
}

/// Texts to score.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub texts: Vec<String>,
    /// The texts came as a list, and so does the answer.
    pub is_list: bool,
    pub parameters: Parameters,
}

/// The optional parameters of a request; `None` means the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    pub method: Option<Method>,
    /// The answer has the score of each token.
    pub per_token: Option<bool>,
    /// Score the tokens at these indices alone, counted without special tokens.
    pub only: Option<Vec<usize>>,
}

/// A tokenized request, and the scores so far.
pub struct Plan {
    mask_id: u32,
    method: Method,
    per_token: bool,
    is_list: bool,
    texts: Vec<Text>,
    size: Size,
    /// The text and the index of the token that is submitted next.
    next: (usize, usize),
    /// The text that gets the next score.
    receiving: usize,
}

struct Text {
    token_ids: Vec<u32>,
    word_ids: Vec<Option<u32>>,
    /// Positions of the scored tokens, in order.
    positions: Vec<usize>,
    log_probs: Vec<f32>,
}

/// The scores of all texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub is_list: bool,
    pub per_token: bool,
    texts: Vec<ScoredTokens>,
}

#[derive(Clone, Debug, PartialEq)]
struct ScoredTokens {
    token_ids: Vec<u32>,
    log_probs: Vec<f32>,
}

/// The score of one text.
#[derive(Clone, Debug, PartialEq)]
pub struct TextScore {
    /// The sum of the log-probabilities.
    pub score: f64,
    /// The number of scored tokens.
    pub tokens: usize,
    /// `exp(-score / tokens)`.
    pub perplexity: f64,
    /// `None` unless the request asks for it.
    pub token_scores: Option<Vec<ScoredToken>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ScoredToken {
    pub token: u32,
    pub token_str: String,
    /// Natural logarithm of the probability.
    pub log_prob: f32,
}

impl Task for Request {
    type Plan = Plan;

    async fn plan(&self, model: &TaskModel, texts_max: usize) -> Result<Plan, InputError> {
        let Self {
            texts,
            is_list,
            parameters,
        } = self;
        let mut planning = Planning::begin(model, texts, &[], LengthRule::default(), texts_max).await?;
        let only = parameters.only.as_deref().map(ascending);
        let mut planned = Vec::with_capacity(texts.len());
        for text in texts {
            let encoded = planning.encode(text).await?;
            let text = text_to_score(encoded, only.as_deref(), model).map_err(|error| planning.of_text(error))?;
            planning.add_sequences(text.positions.len(), text.token_ids.len(), 1)?;
            planned.push(text);
        }
        Ok(Plan {
            mask_id: model.tokenizer.mask_id(),
            method: parameters.method.unwrap_or_default(),
            per_token: parameters.per_token.unwrap_or(false),
            is_list: *is_list,
            texts: planned,
            size: planning.size(),
            next: (0, 0),
            receiving: 0,
        })
    }
}

/// In ascending order, without duplicates.
pub(super) fn ascending(indices: &[usize]) -> Vec<usize> {
    let mut indices = indices.to_vec();
    indices.sort_unstable();
    indices.dedup();
    indices
}

fn text_to_score(encoded: Encoded, only: Option<&[usize]>, model: &TaskModel) -> Result<Text, InputError> {
    let special = model.tokenizer.special_ids();
    let is_scored = |id: &u32| !special.contains(id);
    let Encoded {
        token_ids, word_ids, ..
    } = encoded;
    let own = word_ids.iter().enumerate().filter(|(_, word)| word.is_some());
    let own: Vec<usize> = own.map(|(position, _)| position).collect();
    let positions: Vec<usize> = match only {
        None => own
            .into_iter()
            .filter(|&position| is_scored(&token_ids[position]))
            .collect(),
        Some(only) => {
            let position = |&index: &usize| {
                let position = own
                    .get(index)
                    .copied()
                    .filter(|&position| is_scored(&token_ids[position]));
                position.ok_or(InputError::NoSuchToken {
                    index,
                    tokens: own.len(),
                })
            };
            // The largest index first: with one that exists there are no more of them than tokens.
            only.last().map(position).transpose()?;
            only.iter().map(position).collect::<Result<_, _>>()?
        }
    };
    match positions.is_empty() {
        true => Err(InputError::NoTokens),
        false => Ok(Text {
            token_ids,
            word_ids,
            log_probs: Vec::with_capacity(positions.len()),
            positions,
        }),
    }
}

impl Text {
    /// The text with the mask in place of the token at `position`, read there.
    fn sequence(&self, position: usize, method: Method, mask_id: u32) -> Sequence {
        let mut token_ids = self.token_ids.clone();
        let word = self.word_ids[position];
        for (later, id) in token_ids.iter_mut().enumerate().skip(position) {
            let masked = later == position || (method == Method::PllWordL2r && self.word_ids[later] == word);
            if masked {
                *id = mask_id;
            }
        }
        let own = self.token_ids[position];
        Sequence::new(token_ids, [position], Select::Tokens([own].into()))
    }
}

impl TaskPlan for Plan {
    type Answer = Answer;

    fn task(&self) -> &'static str {
        "score"
    }

    fn size(&self) -> Size {
        self.size
    }

    fn bytes(&self) -> usize {
        let of_token = size_of::<u32>() + size_of::<Option<u32>>() + size_of::<usize>() + size_of::<f32>();
        let piece = self.size.computation.tokens.saturating_mul(size_of::<u32>());
        self.size.tokens * of_token + piece.min(PIECE_BYTES)
    }

    fn entries(&self) -> usize {
        self.texts.iter().map(|text| text.positions.len()).sum()
    }

    async fn next_piece(&mut self) -> Piece {
        let mut piece = Piece::default();
        while !piece.is_full() {
            let (text, index) = self.next;
            let Some(of_text) = self.texts.get(text) else {
                break;
            };
            match of_text.positions.get(index) {
                None => self.next = (text + 1, 0),
                Some(&position) => {
                    piece.push(of_text.sequence(position, self.method, self.mask_id));
                    self.next.1 += 1;
                    work::checkpoint().await;
                }
            }
        }
        piece
    }

    fn take(&mut self, scores: Vec<Scores>) {
        for of_sequence in scores {
            let is_complete = |text: &Text| text.log_probs.len() == text.positions.len();
            while is_complete(&self.texts[self.receiving]) {
                self.receiving += 1;
            }
            self.texts[self.receiving].log_probs.push(of_sequence[0][0].log_prob);
        }
    }

    fn finish(self) -> Answer {
        let texts = self.texts.into_iter().map(|text| ScoredTokens {
            token_ids: text
                .positions
                .iter()
                .map(|&position| text.token_ids[position])
                .collect(),
            log_probs: text.log_probs,
        });
        Answer {
            is_list: self.is_list,
            per_token: self.per_token,
            texts: texts.collect(),
        }
    }

    fn notes(&self) -> Notes {
        Notes::default()
    }
}

impl Answer {
    pub fn texts(&self) -> usize {
        self.texts.len()
    }

    /// About as many bytes as the answer has in JSON.
    pub fn bytes_estimate(&self) -> usize {
        let tokens = self.texts.iter().map(|text| text.token_ids.len()).sum::<usize>();
        self.texts.len() * 96 + if self.per_token { tokens * 64 } else { 0 }
    }

    /// The score of one text.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn score(&self, model: &TaskModel, text: usize) -> Result<TextScore, DecodeError> {
        let ScoredTokens { token_ids, log_probs } = &self.texts[text];
        let score: f64 = log_probs.iter().map(|&log_prob| f64::from(log_prob)).sum();
        let scored = token_ids.iter().zip(log_probs);
        let token_scores = scored.map(|(&token, &log_prob)| {
            Ok(ScoredToken {
                token,
                token_str: model.tokenizer.decode(&[token], false)?,
                log_prob,
            })
        });
        Ok(TextScore {
            score,
            tokens: token_ids.len(),
            perplexity: (-score / token_ids.len() as f64).exp(),
            token_scores: match self.per_token {
                true => Some(token_scores.collect::<Result<_, _>>()?),
                false => None,
            },
        })
    }
}
