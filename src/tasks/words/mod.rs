//! Whole words as targets: a word of several tokens is scored with as many masks in place of the mask.
//!
//! The sequences do not depend on scores. Words of one length with the same tokens before a mask share a sequence.
//! `answer` has the words that were found.

mod answer;

use std::collections::{BTreeMap, HashSet};

use super::computation::{PIECE_BYTES, Piece};
pub use super::fill_mask::WordMethod as Method;
use super::fill_mask::{Parameters, TARGET_BYTES_MAX, TARGETS_MAX, TOP_K_DEFAULT};
use super::{InputError, Notes, Plan as TaskPlan, Planning, Size, Task, TaskModel};
use crate::lm::{Scores, Select, Sequence};
use crate::work::{self, WorkBudget};
pub use answer::{Answer, WordPrediction};
use answer::{Ranked, rank};

/// Tokens of one target.
const WORD_TOKENS_MAX: usize = 32;

/// Tokens of all targets of a request.
const WORDS_TOKENS_MAX: usize = 20_000;

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
        for text in texts {
            let (token_ids, positions) = planning.encode_masked(text).await?;
            let tokens = token_ids.len() + longest - 1;
            let max = model.tokens_max();
            if tokens > max {
                return Err(planning.of_text(InputError::WordBeyondLimit { tokens, max }));
            }
            planning.add_predictions(positions.len() * top_k, tokens)?;
            planning.add_sequences(positions.len() * plan.steps.len(), tokens, 1)?;
            planning.add_work(positions.len().saturating_mul(filled))?;
            planning.add_scores(positions.len().saturating_mul(scores_of_mask))?;
            let text = plan.texts.len();
            plan.texts.push(Text {
                token_ids,
                masks: positions.len(),
            });
            plan.masks
                .extend(positions.into_iter().map(|position| (text, position)));
        }
        plan.size = planning.size();
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

    fn task(&self) -> &'static str {
        "words"
    }

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
