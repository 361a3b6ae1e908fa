//! Sparse vectors of texts: SPLADE, <https://arxiv.org/abs/2109.10086>.
//!
//! The weight of token `j` is the maximum, or the sum, over all tokens of the text, special tokens included, of `log(1
//! + relu(logit_j))`.

use std::collections::VecDeque;
use std::sync::Arc;

use super::computation::Piece;
use super::{InputError, Notes, Plan as TaskPlan, Planning, Size, Task, TaskModel};
use crate::lm::{Scores, Select, Sequence, TokenScore};
use crate::text::LengthRule;

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
    size: Size,
    notes: Notes,
    waiting: VecDeque<Arc<Sequence>>,
    vectors: Vec<Vec<TokenScore>>,
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
        let mut planning = Planning::begin(model, texts, &[], *length, texts_max).await?;
        let mut waiting = VecDeque::with_capacity(texts.len());
        for text in texts {
            let token_ids = planning.encode(text).await?.token_ids;
            planning.add_sequences(1, token_ids.len(), token_ids.len())?;
            let positions: Vec<usize> = (0..token_ids.len()).collect();
            waiting.push_back(Arc::new(Sequence::new(
                token_ids,
                positions,
                Select::Pool(model.pooling),
            )));
        }
        Ok(Plan {
            vocab_size: model.vocab_size,
            size: planning.size(),
            notes: planning.notes(),
            waiting,
            vectors: Vec::with_capacity(texts.len()),
        })
    }
}

impl TaskPlan for Plan {
    type Answer = Answer;

    fn task(&self) -> &'static str {
        "sparse"
    }

    fn size(&self) -> Size {
        self.size
    }

    fn bytes(&self) -> usize {
        let vectors = self.size.texts.min(PIECE_TEXTS) * self.vocab_size * size_of::<TokenScore>();
        self.size.tokens * (size_of::<u32>() + size_of::<usize>()) + vectors
    }

    fn held(&self) -> usize {
        self.vectors
            .iter()
            .map(|vector| vector.len() * size_of::<TokenScore>())
            .sum()
    }

    fn entries(&self) -> usize {
        self.size.texts * self.vocab_size
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
