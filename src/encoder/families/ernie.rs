//! ERNIE 2.0 and 3.0: <https://arxiv.org/abs/1907.12412>; BERT with a table of task types.

use super::bert_like::{self, cls_head_names, encoder_names};
use super::fields::Fields;
use super::{Family, whole};
use crate::encoder::{EncoderSpec, Parameter};

pub const FAMILY: Family = Family {
    model_type: "ernie",
    name: "ERNIE",
    class: "ErnieForMaskedLM",
    parse: spec,
    names,
    form: whole,
};

fn spec(fields: &Fields) -> EncoderSpec {
    let task_types = match fields.flag_or("use_task_id", false) {
        true => Some(fields.size_or("task_type_vocab_size", 3)),
        false => None,
    };
    EncoderSpec {
        task_types,
        ..bert_like::spec(fields)
    }
}

fn names(_: &EncoderSpec, parameter: Parameter) -> Vec<String> {
    match parameter {
        Parameter::TaskTypeEmbeddings => vec!["ernie.embeddings.task_type_embeddings.weight".to_owned()],
        other => encoder_names(other, "ernie").unwrap_or_else(|| cls_head_names(other)),
    }
}
