//! Sparse vectors of texts: SPLADE, <https://arxiv.org/abs/2109.10086>.
//!
//! The weight of token `j` is the maximum, or the sum, over all tokens of the text, special tokens included, of `log(1
//! + relu(logit_j))`.

use std::collections::VecDeque;
use std::sync::Arc;

use super::computation::{Computation, Piece};
use super::fill_mask::LOOKUPS_MAX;
use super::{InputError, Notes, Plan as TaskPlan, Task, TaskModel, in_list};
use crate::lm::{Scores, Select, Sequence, TokenScore};
use crate::text::{EncodeError, LengthRule};
use crate::work::{self, WorkBudget};

/// Texts of one piece. A vector may have an entry for each token of the vocabulary until it is known.
const PIECE_TEXTS: usize = 16;

/// Texts to turn into vectors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub texts: Vec<String>,
    pub length: LengthRule,
}

/// A tokenized request, and the vectors so far.
pub struct Plan {
    vocab_size: usize,
    texts: usize,
    tokens: usize,
    waiting: VecDeque<Arc<Sequence>>,
    vectors: Vec<Vec<TokenScore>>,
    computation: Computation,
    notes: Notes,
}

/// The vectors of all texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    vectors: Vec<Vec<TokenScore>>,
}

/// One entry of a vector.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// The token.
    pub index: u32,
    pub value: f32,
}

impl Task for Request {
    type Plan = Plan;

    async fn plan(&self, model: &TaskModel, texts_max: usize) -> Result<Plan, InputError> {
        let Self { texts, length } = self;
        InputError::check_texts(texts.len(), texts_max)?;
        let strings = texts.iter().map(String::as_str);
        let counted = model.tokenizer.refuse_too_much_work(strings, *length, LOOKUPS_MAX);
        counted.await.map_err(EncodeError::from)?;
        let mut budget = WorkBudget::new(LOOKUPS_MAX);
        let mut computation = Computation::default();
        let (mut truncated, mut tokens) = (0, 0);
        let mut waiting = VecDeque::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            let encoded = match text.trim().is_empty() {
                true => Err(InputError::NoTokens),
                false => {
                    let encoded = model.tokenizer.encode_within(text, *length, &mut budget).await;
                    encoded.map_err(InputError::from)
                }
            };
            let encoded = encoded.map_err(|error| in_list(error, index, texts.len()))?;
            truncated += encoded.truncated;
            let token_ids = encoded.token_ids;
            tokens += token_ids.len();
            computation.add(1, token_ids.len(), token_ids.len())?;
            let positions: Vec<usize> = (0..token_ids.len()).collect();
            waiting.push_back(Arc::new(Sequence::new(
                token_ids,
                positions,
                Select::Pool(model.pooling),
            )));
            work::checkpoint().await;
        }
        Ok(Plan {
            vocab_size: model.vocab_size,
            texts: texts.len(),
            tokens,
            waiting,
            vectors: Vec::with_capacity(texts.len()),
            computation,
            notes: Notes {
                truncated_tokens: length.truncates().then_some(truncated),
                ..Notes::default()
            },
        })
    }
}

impl TaskPlan for Plan {
    type Answer = Answer;

    const TASK: &'static str = "sparse";

    fn texts(&self) -> usize {
        self.texts
    }

    fn tokens(&self) -> usize {
        self.tokens
    }

    fn computation(&self) -> Computation {
        self.computation
    }

    fn bytes(&self) -> usize {
        let vectors = self.texts.min(PIECE_TEXTS) * self.vocab_size * size_of::<TokenScore>();
        self.tokens * (size_of::<u32>() + size_of::<usize>()) + vectors
    }

    fn held(&self) -> usize {
        self.vectors
            .iter()
            .map(|vector| vector.len() * size_of::<TokenScore>())
            .sum()
    }

    fn entries(&self) -> usize {
        self.texts * self.vocab_size
    }

    async fn next_piece(&mut self) -> Piece {
        let mut piece = Piece::default();
        while piece.sequences.len() < PIECE_TEXTS
            && !piece.is_full()
            && let Some(sequence) = self.waiting.pop_front()
        {
            piece.share(&sequence);
        }
        piece
    }

    fn take(&mut self, scores: Vec<Scores>) {
        let vectors = scores.into_iter().map(|mut of_sequence| {
            let mut vector = of_sequence.pop().unwrap_or_default();
            vector.shrink_to_fit();
            vector
        });
        self.vectors.extend(vectors);
    }

    fn finish(self) -> Answer {
        Answer { vectors: self.vectors }
    }

    fn notes(&self) -> Notes {
        self.notes.clone()
    }
}

impl Answer {
    pub fn texts(&self) -> usize {
        self.vectors.len()
    }

    /// The number of entries of a text's vector.
    pub fn entries(&self, text: usize) -> usize {
        self.vectors[text].len()
    }

    pub fn entry(&self, text: usize, entry: usize) -> Entry {
        let TokenScore { token, log_prob } = self.vectors[text][entry];
        Entry {
            index: token,
            value: log_prob,
        }
    }

    /// About as many bytes as the answer has in JSON, mostly more.
    pub fn bytes_estimate(&self) -> usize {
        self.vectors.iter().map(|vector| vector.len() * 40).sum()
    }
}
