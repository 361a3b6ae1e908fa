//! RoBERTa: <https://arxiv.org/abs/1907.11692>, and the families that have its encoder and its names: XLM-RoBERTa
//! <https://arxiv.org/abs/1911.02116> and CamemBERT <https://arxiv.org/abs/1911.03894>.

use super::bert_like::{encoder_names, lm_head_names, roberta_spec};
use super::{Family, whole};
use crate::encoder::{EncoderSpec, Parameter};

pub const ROBERTA: Family = Family {
    model_type: "roberta",
    name: "RoBERTa",
    class: "RobertaForMaskedLM",
    parse: roberta_spec,
    names,
    form: whole,
};

pub const XLM_ROBERTA: Family = Family {
    model_type: "xlm-roberta",
    name: "XLM-RoBERTa",
    class: "XLMRobertaForMaskedLM",
    ..ROBERTA
};

pub const CAMEMBERT: Family = Family {
    model_type: "camembert",
    name: "CamemBERT",
    class: "CamembertForMaskedLM",
    ..ROBERTA
};

fn names(_: &EncoderSpec, parameter: Parameter) -> Vec<String> {
    encoder_names(parameter, "roberta").unwrap_or_else(|| lm_head_names(parameter))
}
