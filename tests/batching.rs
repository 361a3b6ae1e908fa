//! The scores of a text do not depend on the other texts of its batch.

#![cfg(feature = "cpu")]

mod common;

use std::sync::Mutex;

use cloze::backend::Precision;
use cloze::lm::{BackendKind, Batch, MaskedLm, Placement, PretrainedModel, Scores, Select, Sequence, TokenScore};
use common::fixtures::golden;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

/// The largest difference between the scores of one text in two batches.
const TOLERANCE: f32 = 1e-5;
const VOCAB: u32 = 100;

/// A text as the model sees it: token ids and the positions of its masks.
#[derive(Clone, Debug)]
struct Text {
    input_ids: Vec<u32>,
    mask_positions: Vec<usize>,
}

fn text() -> impl Strategy<Value = Text> {
    // One in four is long, so that a batch mixes short and long texts.
    let length = prop_oneof![3 => 1..8_usize, 1 => 8..60_usize];
    length.prop_flat_map(|length| {
        let ids = prop::collection::vec(0..VOCAB, length);
        let positions = prop::collection::btree_set(0..length, 1..=length.min(3));
        (ids, positions).prop_map(|(input_ids, positions)| Text {
            input_ids,
            mask_positions: positions.into_iter().collect(),
        })
    })
}

/// Texts, an order of them, and the sizes of the batches that they are then cut into.
fn batches() -> impl Strategy<Value = (Vec<Text>, Vec<usize>, Vec<usize>)> {
    prop::collection::vec(text(), 1..12).prop_flat_map(|texts| {
        let order = Just((0..texts.len()).collect::<Vec<_>>()).prop_shuffle();
        (Just(texts), order, prop::collection::vec(1..6_usize, 12))
    })
}

/// The scores of the whole vocabulary for each mask of each text.
fn scores(model: &mut dyn MaskedLm, texts: &[&Text]) -> Vec<Vec<Vec<f32>>> {
    let whole_vocabulary = Select::Tokens((0..VOCAB).collect::<Vec<_>>().into());
    let mut batch = Batch::default();
    for text in texts {
        let (ids, positions) = (text.input_ids.clone(), text.mask_positions.clone());
        batch.push(&Sequence::new(ids, positions, whole_vocabulary.clone()));
    }
    let of_row = |row: &Vec<TokenScore>| row.iter().map(TokenScore::probability).collect();
    let of_text = |rows: Scores| rows.iter().map(of_row).collect();
    model.predict(batch).unwrap().into_iter().map(of_text).collect()
}

fn same_alone_and_together(model: &mut dyn MaskedLm, case: (Vec<Text>, Vec<usize>, Vec<usize>)) -> TestCaseResult {
    let (texts, order, sizes) = case;
    let alone: Vec<_> = texts.iter().map(|text| scores(model, &[text]).remove(0)).collect();
    let mut rest = &order[..];
    for size in sizes {
        let (batch, behind) = rest.split_at(size.min(rest.len()));
        rest = behind;
        let together = scores(model, &batch.iter().map(|&index| &texts[index]).collect::<Vec<_>>());
        for (&index, together) in batch.iter().zip(together) {
            let pairs = together.iter().flatten().zip(alone[index].iter().flatten());
            let far = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            prop_assert!(
                far <= TOLERANCE,
                "text {index} in a batch of {}: {far} apart",
                batch.len()
            );
        }
    }
    prop_assert!(rest.is_empty(), "a text was in no batch");
    Ok(())
}

#[test]
fn a_text_has_the_same_scores_alone_and_in_any_batch() {
    let folder = golden("uncased-tied");
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let mut checkpoint = PretrainedModel::open(folder.as_ref()).unwrap();
        let placement = Placement {
            precision: Some(precision),
            ..Placement::new(BackendKind::Cpu, 2)
        };
        let model = Mutex::new(checkpoint.load(&placement).unwrap().workers.remove(0));
        let config = ProptestConfig {
            cases: 64,
            failure_persistence: None,
            ..ProptestConfig::default()
        };
        let mut runner = proptest::test_runner::TestRunner::new(config);
        let outcome = runner.run(&batches(), |case| {
            same_alone_and_together(&mut **model.lock().unwrap(), case)
        });
        outcome.unwrap_or_else(|error| panic!("{precision}: {error}"));
    }
}

/// More rows than the feed-forward layer computes at once.
#[test]
fn a_batch_of_many_rows_gets_the_scores_of_single_texts() {
    let folder = golden("uncased-tied");
    let mut checkpoint = PretrainedModel::open(folder.as_ref()).unwrap();
    let mut model = checkpoint
        .load(&Placement::new(BackendKind::Cpu, 2))
        .unwrap()
        .workers
        .remove(0);
    let text = |index: u32| Text {
        input_ids: (0..59).map(|i| (index * 31 + i * 7) % VOCAB).collect(),
        mask_positions: vec![(index as usize * 13) % 59],
    };
    let texts: Vec<Text> = (0..20).map(text).collect();
    let together = scores(&mut *model, &texts.iter().collect::<Vec<_>>());
    for (text, together) in texts.iter().zip(together) {
        let alone = scores(&mut *model, &[text]).remove(0);
        for (a, b) in together[0].iter().zip(&alone[0]) {
            assert!((a - b).abs() <= TOLERANCE, "{a}, {b}");
        }
    }
}

/// Masks with a small `top_k`, a large `top_k` and target tokens in one batch. The large `top_k` needs whole rows of
/// logits, for more masks than are read at once.
#[test]
fn each_mask_gets_its_own_selection_in_a_mixed_batch() {
    let folder = golden("uncased-tied");
    let mut checkpoint = PretrainedModel::open(folder.as_ref()).unwrap();
    let mut model = checkpoint
        .load(&Placement::new(BackendKind::Cpu, 2))
        .unwrap()
        .workers
        .remove(0);
    let text = |index: u32| -> Vec<u32> { (0..3).map(|i| (index * 31 + i * 7) % VOCAB).collect() };
    let selection = |index: u32| match index % 5 {
        0 => Select::TopK(3),
        1 => Select::Tokens([7, index % VOCAB, 90].into()),
        _ => Select::TopK(90),
    };
    let mut batch = Batch::default();
    for index in 0..300 {
        batch.push(&Sequence::new(text(index), [1], selection(index)));
    }
    let together = model.predict(batch).unwrap();
    assert_eq!(together.len(), 300);
    for (index, together) in (0..300).zip(together) {
        let together = &together[0];
        let mut alone = Batch::default();
        alone.push(&Sequence::new(text(index), [1], selection(index)));
        let alone = &model.predict(alone).unwrap()[0][0];
        assert_eq!(alone.len(), [3, 3, 90, 90, 90][index as usize % 5]);
        assert_eq!(together.len(), alone.len());
        for (a, b) in together.iter().zip(alone) {
            assert!(
                (a.probability() - b.probability()).abs() <= TOLERANCE,
                "mask {index}: {a:?}, {b:?}"
            );
        }
        if let Select::Tokens(tokens) = selection(index) {
            assert!(together.iter().map(|score| score.token).eq(tokens.iter().copied()));
        }
    }
}
