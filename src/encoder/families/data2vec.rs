//! data2vec for text: <https://arxiv.org/abs/2202.03555>; RoBERTa under other names.

use super::bert_like::{encoder_names, lm_head_names, roberta_spec};
use super::{Family, whole};
use crate::encoder::{EncoderSpec, Parameter};

pub const FAMILY: Family = Family {
    model_type: "data2vec-text",
    name: "data2vec",
    class: "Data2VecTextForMaskedLM",
    parse: roberta_spec,
    names,
    form: whole,
};

fn names(_: &EncoderSpec, parameter: Parameter) -> Vec<String> {
    encoder_names(parameter, "data2vec_text").unwrap_or_else(|| lm_head_names(parameter))
}
