//! Whole words as targets: a word of several tokens is scored with as many masks in place of the mask.
//!
//! The sequences do not depend on scores. Words of one length with the same tokens before a mask share a sequence.

use std::collections::{BTreeMap, HashSet};

use super::computation::{PIECE_BYTES, Piece};
pub use super::fill_mask::WordMethod as Method;
use super::fill_mask::{AnswerSize, LOOKUPS_PER_SCORE, Parameters, TARGET_BYTES_MAX, TARGETS_MAX, TOP_K_DEFAULT};
use super::{InputError, Notes, Plan as TaskPlan, Planning, Size, Task, TaskModel};
use crate::lm::{Scores, Select, Sequence};
use crate::text::{DecodeError, EncodeError};
use crate::work::{self, WorkBudget};

/// Tokens of one target.
pub const WORD_TOKENS_MAX: usize = 32;

/// Tokens of all targets of a request.
pub const WORDS_TOKENS_MAX: usize = 20_000;

/// A request of fill-mask whose targets are whole words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub texts: Vec<String>,
    pub parameters: Parameters,
    pub method: Method,
}

/// A tokenized request, and the sums so far.
pub struct Plan {
    method: Method,
    top_k: usize,
    renormalize: bool,
    pad_id: Option<u32>,
    notes: Notes,
    /// The tokens of each word.
    words: Vec<Vec<u32>>,
    steps: Vec<Step>,
    texts: Vec<Text>,
    size: Size,
    /// The mask, over all texts, and the step that are submitted next.
    next: (usize, usize),
    /// The same of the next scores.
    receiving: (usize, usize),
    /// Text and position of each mask.
    masks: Vec<(usize, usize)>,
    /// For each mask, the log-probability of each word; empty before the first piece.
    sums: Vec<Vec<f64>>,
}

/// One sequence for each mask: tokens in place of the mask, and what is read.
struct Step {
    filled: Vec<u32>,
    /// The index in `filled` that is read.
    at: usize,
    tokens: std::sync::Arc<[u32]>,
    /// Words, and the index in `tokens` of the token that counts for each.
    uses: Vec<(u32, u32)>,
}

struct Text {
    token_ids: Vec<u32>,
    masks: usize,
}

/// The answer to a request, before its strings are decoded.
pub struct Answer {
    method: Method,
    pad_id: Option<u32>,
    words: Vec<Vec<u32>>,
    texts: Vec<Text>,
    /// Text and position of each mask.
    masks: Vec<(usize, usize)>,
    /// The first mask of each text, and at the end the number of masks.
    first_masks: Vec<usize>,
    /// For each mask the best words.
    ranked: Vec<Vec<Ranked>>,
}

struct Ranked {
    word: u32,
    log_prob: f64,
    score: f32,
}

/// One word for one mask.
#[derive(Clone, Debug, PartialEq)]
pub struct WordPrediction {
    /// The probability of the word by `method`, or its share of the targets.
    pub score: f32,
    pub token_str: String,
    /// The text with the word in place of this mask.
    pub sequence: String,
    pub tokens: Vec<u32>,
    /// The sum over the tokens, a natural logarithm.
    pub log_prob: f64,
    pub method: Method,
}

impl Task for Request {
    type Plan = Plan;

    async fn plan(&self, model: &TaskModel, texts_max: usize) -> Result<Plan, InputError> {
        let Self {
            texts,
            parameters,
            method,
        } = self;
        let Some(targets) = &parameters.targets else {
            return Err(InputError::Parameters(
                "target_mode is \"word\" and targets is missing; name the words to score.",
            ));
        };
        let mut planning = Planning::begin(model, texts, targets, parameters.length, texts_max).await?;
        let words = words(targets, model, &mut planning.budget).await?;
        let top_k = parameters.top_k.unwrap_or(TOP_K_DEFAULT);
        if top_k == 0 {
            return Err(InputError::TopK {
                top_k,
                vocab_size: model.vocab_size,
            });
        }
        let top_k = top_k.min(words.len());
        let longest = words.iter().map(Vec::len).max().unwrap_or(1);
        let steps = steps(&words, *method, model.tokenizer.mask_id()).await;
        let scores_of_mask = steps.iter().map(|step| step.tokens.len()).sum::<usize>();
        let filled = steps.iter().map(|step| step.filled.len()).sum::<usize>();

        let mut answer_size = AnswerSize::default();
        let mut plan = Plan {
            method: *method,
            top_k,
            renormalize: parameters.renormalize,
            pad_id: model.tokenizer.pad_id(),
            notes: Notes::default(),
            words,
            steps,
            texts: Vec::with_capacity(texts.len()),
            size: Size::default(),
            next: (0, 0),
            receiving: (0, 0),
            masks: Vec::new(),
            sums: Vec::new(),
        };
        for (index, text) in texts.iter().enumerate() {
            let read = planning.encode_masked(text).await;
            let (token_ids, positions) = read.map_err(|error| planning.error_at(index, error))?;
            let tokens = token_ids.len() + longest - 1;
            if tokens > model.tokens_max() {
                let max = model.tokens_max();
                let error = InputError::Encode(EncodeError::TooManyTokens { tokens, max });
                return Err(planning.error_at(index, error));
            }
            answer_size.add(positions.len() * top_k, tokens)?;
            let sequences = positions.len() * plan.steps.len();
            planning.size.computation.add(sequences, tokens, 1)?;
            let scored = positions
                .len()
                .saturating_mul(filled + scores_of_mask * LOOKUPS_PER_SCORE as usize);
            let scored = planning.budget.spend(scored as u64);
            scored.map_err(EncodeError::from)?;
            let text = plan.texts.len();
            plan.texts.push(Text {
                token_ids,
                masks: positions.len(),
            });
            plan.masks
                .extend(positions.into_iter().map(|position| (text, position)));
            work::checkpoint().await;
        }
        plan.size = planning.size;
        plan.notes = planning.notes();
        Ok(plan)
    }
}

/// The tokens of each target, without duplicates and targets that the tokenizer drops.
async fn words(targets: &[String], model: &TaskModel, budget: &mut WorkBudget) -> Result<Vec<Vec<u32>>, InputError> {
    if targets.len() > TARGETS_MAX {
        return Err(InputError::TooManyTargets {
            targets: targets.len(),
            max: TARGETS_MAX,
        });
    }
    let (mut words, mut known, mut tokens) = (Vec::new(), HashSet::new(), 0);
    for target in targets {
        if target.len() > TARGET_BYTES_MAX {
            return Err(InputError::LongTarget {
                bytes: target.len(),
                max: TARGET_BYTES_MAX,
            });
        }
        let word = model.tokenizer.encode_word(target, budget).await?;
        if word.len() > WORD_TOKENS_MAX {
            return Err(InputError::LongWord {
                tokens: word.len(),
                max: WORD_TOKENS_MAX,
            });
        }
        tokens += word.len();
        if tokens > WORDS_TOKENS_MAX {
            return Err(InputError::TooManyWordTokens { max: WORDS_TOKENS_MAX });
        }
        if !word.is_empty() && known.insert(word.clone()) {
            words.push(word);
        }
        work::checkpoint().await;
    }
    match words.is_empty() {
        true => Err(InputError::NoTarget),
        false => Ok(words),
    }
}

/// The sequences that score all words at one mask.
async fn steps(words: &[Vec<u32>], method: Method, mask_id: u32) -> Vec<Step> {
    // Tokens in place of the mask and the index that is read, with each token that is scored there and its words.
    let mut contexts = BTreeMap::<(Vec<u32>, usize), BTreeMap<u32, Vec<u32>>>::new();
    for (index, word) in words.iter().enumerate() {
        for (at, &token) in word.iter().enumerate() {
            let mut filled = word.clone();
            match method {
                Method::LeftToRight => filled[at..].fill(mask_id),
                Method::Pll => filled[at] = mask_id,
            }
            let of_context = contexts.entry((filled, at)).or_default();
            of_context.entry(token).or_default().push(index as u32);
        }
        work::checkpoint().await;
    }
    let step = |((filled, at), tokens): ((Vec<u32>, usize), BTreeMap<u32, Vec<u32>>)| {
        let of_token = tokens.values().enumerate();
        let uses = of_token.flat_map(|(token, words)| words.iter().map(move |&word| (word, token as u32)));
        Step {
            uses: uses.collect(),
            tokens: tokens.keys().copied().collect(),
            filled,
            at,
        }
    };
    contexts.into_iter().map(step).collect()
}

/// `token_ids` with `filled` in place of the token at `position`.
fn replaced(token_ids: &[u32], position: usize, filled: &[u32]) -> Vec<u32> {
    [&token_ids[..position], filled, &token_ids[position + 1..]].concat()
}

impl TaskPlan for Plan {
    type Answer = Answer;

    const TASK: &'static str = "words";

    fn size(&self) -> Size {
        self.size
    }

    fn bytes(&self) -> usize {
        let steps = self.steps.iter().map(|step| {
            size_of::<Step>()
                + step.filled.len() * size_of::<u32>()
                + step.tokens.len() * size_of::<u32>()
                + step.uses.len() * 8
        });
        let words = self
            .words
            .iter()
            .map(|word| size_of::<Vec<u32>>() + word.len() * size_of::<u32>());
        let sums = self.masks.len() * self.words.len() * size_of::<f64>();
        let ranked = self.entries() * size_of::<Ranked>();
        self.size.tokens * size_of::<u32>() + steps.sum::<usize>() + words.sum::<usize>() + sums + ranked + PIECE_BYTES
    }

    fn entries(&self) -> usize {
        self.masks.len() * self.top_k
    }

    async fn next_piece(&mut self) -> Piece {
        if self.sums.is_empty() {
            self.sums = vec![vec![0.0; self.words.len()]; self.masks.len()];
        }
        let mut piece = Piece::default();
        while let Some(&(text, position)) = self.masks.get(self.next.0)
            && !piece.is_full()
        {
            let Some(step) = self.steps.get(self.next.1) else {
                self.next = (self.next.0 + 1, 0);
                continue;
            };
            let token_ids = replaced(&self.texts[text].token_ids, position, &step.filled);
            let select = Select::Tokens(step.tokens.clone());
            piece.push(Sequence::new(token_ids, [position + step.at], select));
            self.next.1 += 1;
            work::checkpoint().await;
        }
        piece
    }

    fn take(&mut self, scores: Vec<Scores>) {
        for of_sequence in scores {
            let (mask, step) = self.receiving;
            for &(word, token) in &self.steps[step].uses {
                self.sums[mask][word as usize] += f64::from(of_sequence[0][token as usize].log_prob);
            }
            self.receiving = match step + 1 < self.steps.len() {
                true => (mask, step + 1),
                false => (mask + 1, 0),
            };
        }
    }

    fn finish(self) -> Answer {
        let (top_k, renormalize) = (self.top_k, self.renormalize);
        let ranked = self.sums.into_iter().map(|sums| rank(&sums, top_k, renormalize));
        let mut first_masks = vec![0];
        for text in &self.texts {
            first_masks.push(first_masks[first_masks.len() - 1] + text.masks);
        }
        Answer {
            method: self.method,
            pad_id: self.pad_id,
            words: self.words,
            ranked: ranked.collect(),
            texts: self.texts,
            masks: self.masks,
            first_masks,
        }
    }

    fn notes(&self) -> Notes {
        self.notes.clone()
    }
}

/// The best words, best first.
fn rank(sums: &[f64], top_k: usize, renormalize: bool) -> Vec<Ranked> {
    let largest = sums.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = match renormalize && largest > f64::NEG_INFINITY {
        true => largest + sums.iter().map(|sum| (sum - largest).exp()).sum::<f64>().ln(),
        false => 0.0,
    };
    let mut best: Vec<u32> = (0..sums.len() as u32).collect();
    best.sort_by(|&a, &b| sums[b as usize].total_cmp(&sums[a as usize]));
    best.truncate(top_k);
    let ranked = best.into_iter().map(|word| {
        let log_prob = sums[word as usize];
        Ranked {
            word,
            log_prob,
            score: (log_prob - log_sum).exp() as f32,
        }
    });
    ranked.collect()
}

impl Answer {
    pub fn texts(&self) -> usize {
        self.texts.len()
    }

    /// The number of masks of a text.
    pub fn masks(&self, text: usize) -> usize {
        self.texts[text].masks
    }

    /// The number of words for a mask.
    pub fn predictions(&self, text: usize, mask: usize) -> usize {
        self.ranked[self.first_masks[text] + mask].len()
    }

    /// About as many bytes as the answer has in JSON, mostly more.
    pub fn bytes_estimate(&self) -> usize {
        let of_masks = self.masks.iter().zip(&self.ranked);
        let of_masks =
            of_masks.map(|(&(text, _), ranked)| ranked.len() * (256 + 16 * self.texts[text].token_ids.len()));
        of_masks.sum()
    }

    /// Decodes one prediction.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn prediction(
        &self,
        model: &TaskModel,
        text: usize,
        mask: usize,
        rank: usize,
    ) -> Result<WordPrediction, DecodeError> {
        let mask = self.first_masks[text] + mask;
        let &Ranked { word, log_prob, score } = &self.ranked[mask][rank];
        let word = &self.words[word as usize];
        let Text { token_ids, masks } = &self.texts[text];
        let mut shown = replaced(token_ids, self.masks[mask].1, word);
        shown.retain(|&id| Some(id) != self.pad_id);
        Ok(WordPrediction {
            score,
            token_str: model.tokenizer.decode(word, false)?,
            // As in fill-mask: special tokens stay if other masks are among them.
            sequence: model.tokenizer.decode(&shown, *masks == 1)?,
            tokens: word.clone(),
            log_prob,
            method: self.method,
        })
    }
}
