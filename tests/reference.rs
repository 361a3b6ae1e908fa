//! The reference backend, which has no kernels of ours, against transformers: the default bodies of the backend trait
//! run every golden checkpoint.

#![cfg(feature = "cpu")]

mod common;

use cloze::backend::reference::Reference;
use cloze::backend::{Precision, UnsupportedPrecision};
use cloze::encoder::EncoderError;
use cloze::lm::PretrainedModel;
use common::golden::check_one_batch_of;

#[test]
fn answers_are_those_of_transformers() {
    check_one_batch_of(|model| {
        let loaded = model.load_on::<Reference>(&Default::default(), Precision::F32);
        Box::new(loaded.expect("a golden checkpoint loads"))
    });
}

#[test]
fn a_precision_that_the_backend_lacks_is_refused_at_load() {
    let mut model = PretrainedModel::embedded().expect("the demo model opens");
    for precision in [Precision::F16, Precision::Bf16, Precision::Int8] {
        match model.load_on::<Reference>(&Default::default(), precision) {
            Err(EncoderError::Precision(UnsupportedPrecision { requested, .. })) => assert_eq!(requested, precision),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("the reference backend computes in {precision}"),
        }
    }
}
