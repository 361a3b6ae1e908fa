//! Cloze's BERT and the imported one agree, logit by logit, at every position of every golden text.

use std::fs;
use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use cloze::backend::Precision;
use cloze::backend::cpu::Cpu;
use cloze::lm::{Batch, PretrainedModel, Select, Sequence};

const CHECKPOINT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/golden/uncased-tied");

/// The logits lie between -14 and 14, where torch and onnxruntime differ by 1e-5 as well; a weight that is off by 1e-3
/// moves a logit by 3e-3.
const ERROR_MAX: f32 = 5e-5;

#[test]
fn cloze_and_the_imported_model_agree() {
    let device = Device::flex();
    let oracle = onnx_oracle::bert::Model::from_embedded(&device);
    let mut checkpoint = PretrainedModel::open(Path::new(CHECKPOINT)).expect("the golden checkpoint opens");
    let positions = checkpoint.info.max_tokens;
    let cloze = checkpoint
        .load_on::<Cpu>(&Default::default(), Precision::F32)
        .expect("the golden checkpoint loads");

    let texts = golden_texts(positions);
    assert!(texts.len() > 50, "{} golden texts", texts.len());

    // Each text alone, then all in one batch: its neighbors in a batch must not matter.
    let mut batch = Batch::default();
    let (mut expected, mut alone) = (Vec::new(), Vec::new());
    for ids in &texts {
        // Asking at every position makes Cloze compute every row that the oracle computes.
        let everywhere: Vec<usize> = (0..ids.len()).collect();
        let sequence = Sequence::new(ids.as_slice(), everywhere, Select::TopK(1));
        let mut single = Batch::default();
        single.push(&sequence);
        batch.push(&sequence);
        alone.extend(
            cloze
                .logits(cloze.readout_states(single))
                .into_vec()
                .expect("f32 logits"),
        );

        let row: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        let row = Tensor::<2, Int>::from_data(TensorData::new(row, [1, ids.len()]), &device);
        let logits = oracle.forward(row).into_data();
        expected.extend(logits.try_into_vec_as::<f32>().expect("f32 logits"));
    }
    let together = cloze
        .logits(cloze.readout_states(batch))
        .into_vec()
        .expect("f32 logits");

    let tokens: usize = texts.iter().map(Vec::len).sum();
    for (how, got) in [("alone", alone), ("in one batch", together)] {
        let (error, spread) = compare(&got, &expected);
        println!(
            "{} texts, {tokens} tokens {how}: off by {error:.1e} at most, logits up to {spread:.1}",
            texts.len()
        );
        assert!(error < ERROR_MAX, "{how}: a logit is off by {error}");
    }
}

/// Token ids of every text in `golden.json` that fits the model.
fn golden_texts(positions: usize) -> Vec<Vec<u32>> {
    let golden = fs::read(Path::new(CHECKPOINT).join("golden.json")).expect("golden.json is there");
    let golden: serde_json::Value = serde_json::from_slice(&golden).expect("golden.json is JSON");
    let texts = golden["cases"].as_array().expect("cases").iter();
    let texts = texts.flat_map(|case| case["input_ids"].as_array().expect("input_ids"));
    let mut texts: Vec<Vec<u32>> = texts
        .map(|ids| serde_json::from_value(ids.clone()).expect("token ids"))
        .filter(|ids: &Vec<u32>| ids.len() <= positions)
        .collect();
    texts.sort();
    texts.dedup();
    texts
}

/// The largest difference, and the largest value it was found among.
fn compare(got: &[f32], expected: &[f32]) -> (f32, f32) {
    assert_eq!(got.len(), expected.len());
    assert!(got.iter().chain(expected).all(|value| value.is_finite()));
    let pairs = got.iter().zip(expected);
    let error = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    (error, expected.iter().map(|value| value.abs()).fold(0.0, f32::max))
}
