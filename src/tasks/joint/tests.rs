//! The search over a model of few tokens, beside an exhaustive one.

use super::*;
use crate::lm::{PretrainedModel, TokenScore};

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
    let (most, mut sequences) = (plan.size().computation.sequences, 0);
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

fn planning(model: &TaskModel) -> Planning<'_> {
    work::run_to_end(Planning::begin(model, &[], &[], Default::default(), 1)).unwrap()
}

#[test]
fn a_beam_as_wide_as_the_vocabulary_finds_what_an_exhaustive_search_finds() {
    let model = model();
    let text = "The [MASK] is in the [MASK].";
    let (found, sequences) = search(&model, text, VOCABULARY as usize, Order::LeftToRight, 5);
    assert_eq!(sequences, 1 + VOCABULARY as usize);
    let (token_ids, masks) = work::run_to_end(planning(&model).encode_masked(text)).unwrap();
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
    let model = model();
    let widest = Options {
        beam: BEAM_MAX,
        order: Order::LeftToRight,
    };
    let error = widest.count(500, 512, &mut planning(&model)).unwrap_err();
    assert!(matches!(error, InputError::TooMuchComputation { .. }), "{error}");
    let mut planning = planning(&model);
    Options::default().count(5, 100, &mut planning).unwrap();
    assert_eq!(planning.size().computation.sequences, 1 + 4 * 8);
}
