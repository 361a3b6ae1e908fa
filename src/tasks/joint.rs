//! Several masks of a text filled together: beam search over the conditional distributions of the masks.
//!
//! The score of a filling is a sum of log-probabilities by the chain rule, one mask after the other with the masks
//! before it filled. A masked language model has no single joint distribution: the sum depends on the order (Hennigen &
//! Kim 2023, <https://arxiv.org/abs/2305.15501>).
//!
//! The beam is monotone (Lemons et al. 2022, <https://arxiv.org/abs/2204.02929>): place `b` of the beam takes the best
//! extension of the places up to `b` that no earlier place has. A wider beam contains every narrower one, so its best
//! filling is never worse.

use super::computation::{Computation, PIECE_BYTES, Piece};
use super::fill_mask::{AnswerSize, LOOKUPS_MAX, Parameters, TOP_K_DEFAULT};
pub use super::fill_mask::{JointOptions as Options, Order};
use super::{InputError, Notes, Plan as TaskPlan, Task, TaskModel, in_list};
use crate::lm::{Scores, Select, Sequence, TokenScore};
use crate::text::{DecodeError, EncodeError};
use crate::work::{self, WorkBudget};

/// The widest beam.
pub const BEAM_MAX: usize = 64;

/// The most fillings of one text.
pub const FILLINGS_MAX: usize = 1_000;

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
    computation: Computation,
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

/// Some masks with their tokens.
#[derive(Clone, Debug, Default, PartialEq)]
struct Hypothesis {
    /// For each mask its token, once it has one.
    tokens: Vec<Option<u32>>,
    log_score: f64,
}

/// The tokens for one mask of a hypothesis, most probable first.
struct Extensions {
    mask: usize,
    tokens: Vec<TokenScore>,
}

/// The answer to a request, before its strings are decoded.
pub struct Answer {
    order: Order,
    pad_id: Option<u32>,
    texts: Vec<Text>,
}

/// Tokens for all masks of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Filling {
    /// The sum of the log-probabilities in this order of filling.
    pub log_score: f64,
    /// One for each mask, in the order of the text.
    pub tokens: Vec<u32>,
    pub token_strs: Vec<String>,
    /// The text with these tokens.
    pub sequence: String,
    pub order: Order,
}

impl Task for Request {
    type Plan = Plan;

    async fn plan(&self, model: &TaskModel, texts_max: usize) -> Result<Plan, InputError> {
        let Self {
            texts,
            parameters,
            options,
        } = self;
        InputError::check_texts(texts.len(), texts_max)?;
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
        let strings = texts.iter().map(String::as_str);
        let counted = model
            .tokenizer
            .refuse_too_much_work(strings, parameters.length, LOOKUPS_MAX);
        counted.await.map_err(EncodeError::from)?;
        let mut budget = WorkBudget::new(LOOKUPS_MAX);
        let mut computation = Computation::default();
        let mut answer_size = AnswerSize::default();
        let mut truncated = 0;
        let mut planned = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            let read = model.tokens_and_masks(text, parameters.length, &mut budget).await;
            let (token_ids, masks, of_text) = read.map_err(|error| in_list(error, index, texts.len()))?;
            truncated += of_text;
            answer_size.add(top_k, token_ids.len())?;
            options.count(masks.len(), token_ids.len(), &mut computation)?;
            planned.push(Text {
                beam: vec![Hypothesis {
                    tokens: vec![None; masks.len()],
                    log_score: 0.0,
                }],
                token_ids,
                masks,
                fillings: Vec::new(),
            });
            work::checkpoint().await;
        }
        Ok(Plan {
            options: *options,
            top_k,
            vocab_size: model.vocab_size,
            pad_id: model.tokenizer.pad_id(),
            notes: Notes {
                truncated_tokens: parameters.length.truncates().then_some(truncated),
                ..Notes::default()
            },
            round: (0..planned.len()).map(|text| (text, 0)).collect(),
            texts: planned,
            computation,
            submitted: 0,
            extensions: Vec::new(),
        })
    }
}

impl Options {
    /// Counts the most sequences for a text with `masks` masks: one, then a beam of them for each further mask.
    fn count(self, masks: usize, tokens: usize, computation: &mut Computation) -> Result<(), InputError> {
        let readouts = |left: usize| match self.order {
            Order::LeftToRight => 1,
            Order::MostCertainFirst => left,
        };
        computation.add(1, tokens, readouts(masks))?;
        (1..masks).try_for_each(|filled| computation.add(self.beam, tokens, readouts(masks - filled)))
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

impl Hypothesis {
    /// The masks without a token, ascending.
    fn unfilled(&self) -> impl Iterator<Item = usize> {
        let masks = self.tokens.iter().enumerate();
        masks.filter(|(_, token)| token.is_none()).map(|(mask, _)| mask)
    }

    fn extended(&self, mask: usize, score: TokenScore) -> Self {
        let mut extended = self.clone();
        extended.tokens[mask] = Some(score.token);
        extended.log_score += f64::from(score.log_prob);
        extended
    }
}

/// The monotone beam of `width` places after `beam`, whose hypotheses have these extensions.
fn next_beam(beam: &[Hypothesis], extensions: &[Extensions], width: usize) -> Vec<Hypothesis> {
    let mut next: Vec<Hypothesis> = Vec::with_capacity(width);
    // For each hypothesis, its best extension that is not taken.
    let mut heads = vec![0; beam.len()];
    for place in 1..=width {
        loop {
            let open = (0..beam.len().min(place)).filter_map(|of| {
                let score = extensions[of].tokens.get(heads[of])?;
                Some((of, beam[of].log_score + f64::from(score.log_prob)))
            });
            let best = open.fold(None, |best: Option<(usize, f64)>, (of, score)| match best {
                Some((_, largest)) if largest >= score => best,
                _ => Some((of, score)),
            });
            let Some((of, _)) = best else {
                break;
            };
            let extension = &extensions[of];
            let extended = beam[of].extended(extension.mask, extension.tokens[heads[of]]);
            heads[of] += 1;
            // Another order may have filled the same masks with the same tokens.
            if !next.iter().any(|other| other.tokens == extended.tokens) {
                next.push(extended);
                break;
            }
        }
    }
    next
}

/// The best extensions of complete hypotheses, best first.
fn best_fillings(beam: &[Hypothesis], extensions: &[Extensions], count: usize) -> Vec<Hypothesis> {
    let of_beam = beam.iter().zip(extensions).enumerate();
    let mut all: Vec<(f64, usize, usize)> = of_beam
        .flat_map(|(of, (hypothesis, extension))| {
            let tokens = extension.tokens.iter().enumerate();
            tokens.map(move |(rank, score)| (hypothesis.log_score + f64::from(score.log_prob), of, rank))
        })
        .collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut best: Vec<Hypothesis> = Vec::with_capacity(count);
    let mut known = std::collections::HashSet::new();
    for (_, of, rank) in all {
        let filling = beam[of].extended(extensions[of].mask, extensions[of].tokens[rank]);
        if known.insert(filling.tokens.clone()) {
            best.push(filling);
            if best.len() == count {
                break;
            }
        }
    }
    best
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

    const TASK: &'static str = "joint";

    fn texts(&self) -> usize {
        self.texts.len()
    }

    fn tokens(&self) -> usize {
        self.texts.iter().map(|text| text.token_ids.len()).sum()
    }

    fn computation(&self) -> Computation {
        self.computation
    }

    fn bytes(&self) -> usize {
        let beam = self.options.beam;
        let of_texts = self.texts.iter().map(|text| {
            let hypothesis = size_of::<Hypothesis>() + text.masks.len() * size_of::<Option<u32>>();
            let extensions = (beam + beam.max(self.top_k)) * beam * 3 * size_of::<TokenScore>();
            (2 * beam + self.top_k) * 2 * hypothesis + extensions
        });
        self.tokens() * size_of::<u32>() + of_texts.sum::<usize>() + PIECE_BYTES
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

impl Answer {
    pub fn texts(&self) -> usize {
        self.texts.len()
    }

    /// The number of fillings of a text.
    pub fn fillings(&self, text: usize) -> usize {
        self.texts[text].fillings.len()
    }

    /// About as many bytes as the answer has in JSON, mostly more.
    pub fn bytes_estimate(&self) -> usize {
        let of_texts = self.texts.iter().map(|text| {
            let of_filling = 128 + 32 * text.masks.len() + 16 * text.token_ids.len();
            text.fillings.len() * of_filling
        });
        of_texts.sum()
    }

    /// Decodes one filling.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn filling(&self, model: &TaskModel, text: usize, rank: usize) -> Result<Filling, DecodeError> {
        let text = &self.texts[text];
        let filling = &text.fillings[rank];
        let tokens: Vec<u32> = filling.tokens.iter().copied().flatten().collect();
        let mut shown = text.filled(filling);
        shown.retain(|&id| Some(id) != self.pad_id);
        let token_strs = tokens.iter().map(|&token| model.tokenizer.decode(&[token], false));
        Ok(Filling {
            log_score: filling.log_score,
            token_strs: token_strs.collect::<Result<_, _>>()?,
            tokens,
            sequence: model.tokenizer.decode(&shown, true)?,
            order: self.order,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lm::PretrainedModel;

    const VOCABULARY: u32 = 16;

    /// A log-probability of `token` at `position`, which depends on all other tokens of the sequence.
    fn log_probs(token_ids: &[u32], position: usize) -> Vec<f64> {
        let mut state = 0x9e37_79b9_u64 + position as u64;
        for &id in token_ids {
            state = (state ^ u64::from(id)).wrapping_mul(0x2545_f491_4f6c_dd1d);
        }
        let mut logits = Vec::new();
        for _ in 0..VOCABULARY {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            logits.push((state >> 40) as f64 / f64::from(1 << 24) * 4.0);
        }
        let sum = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
        logits.into_iter().map(|logit| logit - sum).collect()
    }

    fn scores(sequence: &Sequence) -> Scores {
        let Select::TopK(k) = sequence.readout.select else {
            panic!("{sequence:?}")
        };
        let of_position = |&position: &usize| {
            let log_probs = log_probs(&sequence.token_ids, position);
            let mut all: Vec<TokenScore> = (0..VOCABULARY)
                .map(|token| TokenScore {
                    token,
                    log_prob: log_probs[token as usize] as f32,
                })
                .collect();
            all.sort_by(|a, b| b.log_prob.total_cmp(&a.log_prob));
            all.truncate(k);
            all
        };
        sequence.readout.positions.iter().map(of_position).collect()
    }

    /// The fillings of a text, and the number of sequences.
    fn search(model: &TaskModel, text: &str, beam: usize, order: Order, top_k: usize) -> (Vec<Hypothesis>, usize) {
        let request = Request {
            texts: vec![text.to_owned()],
            parameters: Parameters {
                top_k: Some(top_k),
                ..Parameters::default()
            },
            options: Options { beam, order },
        };
        let mut plan = work::run_to_end(request.plan(model, 1)).unwrap();
        plan.vocab_size = VOCABULARY as usize;
        let (most, mut sequences) = (plan.computation().sequences, 0);
        loop {
            let piece = work::run_to_end(plan.next_piece());
            if piece.sequences.is_empty() {
                break;
            }
            sequences += piece.sequences.len();
            plan.take(piece.sequences.iter().map(|sequence| scores(sequence)).collect());
        }
        assert!(sequences <= most, "{sequences} of {most}");
        (plan.finish().texts.remove(0).fillings, sequences)
    }

    fn model() -> TaskModel {
        let model = PretrainedModel::embedded().unwrap();
        TaskModel::new(model.tokenizer, &model.info, 64)
    }

    #[test]
    fn a_beam_as_wide_as_the_vocabulary_finds_what_an_exhaustive_search_finds() {
        let model = model();
        let text = "The [MASK] is in the [MASK].";
        let (found, sequences) = search(&model, text, VOCABULARY as usize, Order::LeftToRight, 5);
        assert_eq!(sequences, 1 + VOCABULARY as usize);
        let (token_ids, masks, _) =
            work::run_to_end(model.tokens_and_masks(text, Default::default(), &mut WorkBudget::new(1000))).unwrap();
        let first = log_probs(&token_ids, masks[0]);
        let mut all = Vec::new();
        for a in 0..VOCABULARY {
            let mut filled = token_ids.clone();
            filled[masks[0]] = a;
            let second = log_probs(&filled, masks[1]);
            all.extend((0..VOCABULARY).map(|b| (first[a as usize] + second[b as usize], [a, b])));
        }
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (filling, (log_score, tokens)) in found.iter().zip(all) {
            assert_eq!(filling.tokens, tokens.map(Some));
            assert!((filling.log_score - log_score).abs() < 1e-5, "{filling:?}");
        }
    }

    #[test]
    fn a_wider_beam_never_finds_less() {
        let model = model();
        for order in [Order::LeftToRight, Order::MostCertainFirst] {
            for text in [
                "[MASK] a [MASK] [MASK]",
                "[MASK] [MASK] the [MASK] [MASK]",
                "the [MASK] [MASK]",
            ] {
                let mut best = f64::NEG_INFINITY;
                for beam in 1..=20 {
                    let (found, _) = search(&model, text, beam, order, 3);
                    assert!(found[0].log_score >= best, "{order:?} {text} {beam}");
                    assert!(found.len() == 3 && found.is_sorted_by(|a, b| a.log_score >= b.log_score));
                    best = found[0].log_score;
                }
            }
        }
    }

    #[test]
    fn one_mask_is_filled_with_its_best_tokens_however_narrow_the_beam() {
        let model = model();
        for order in [Order::LeftToRight, Order::MostCertainFirst] {
            let (found, sequences) = search(&model, "the [MASK].", 1, order, 4);
            assert_eq!((found.len(), sequences), (4, 1));
        }
    }

    #[test]
    fn the_widest_beam_over_very_many_masks_is_refused_with_the_numbers() {
        let mut computation = Computation::default();
        let widest = Options {
            beam: BEAM_MAX,
            order: Order::LeftToRight,
        };
        let error = widest.count(500, 512, &mut computation).unwrap_err();
        assert!(matches!(error, InputError::TooMuchComputation { .. }), "{error}");
        let mut computation = Computation::default();
        Options::default().count(5, 100, &mut computation).unwrap();
        assert_eq!(computation.sequences, 1 + 4 * 8);
    }
}
