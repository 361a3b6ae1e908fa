//! RoFormer: <https://arxiv.org/abs/2104.09864>; BERT with rotary positions over neighbouring columns.

use super::bert_like::{BERT, cls_head_names, encoder_names, rotary, rotary_positions, spec_with};
use super::fields::Fields;
use super::{Family, whole};
use crate::backend::RotaryPairing;
use crate::encoder::{EncoderSpec, HeadSpec, Parameter};

pub const FAMILY: Family = Family {
    model_type: "roformer",
    name: "RoFormer",
    class: "RoFormerForMaskedLM",
    parse: spec,
    names,
    form: whole,
};

fn spec(fields: &Fields) -> EncoderSpec {
    fields.check_false("rotary_value", "rotated values are not supported");
    let spec = spec_with(fields, &BERT);
    let embedding_size = fields.size_or("embedding_size", spec.hidden_size);
    EncoderSpec {
        positions: rotary_positions(fields, "max_position_embeddings", 1536),
        rotary: rotary(fields, &BERT, &spec, RotaryPairing::Neighbours, 10_000.0),
        token_types: Some(fields.size_or("type_vocab_size", 2)),
        embedding_size,
        embedding_projection: embedding_size != spec.hidden_size,
        head: HeadSpec {
            size: embedding_size,
            ..spec.head
        },
        ..spec
    }
}

fn names(_: &EncoderSpec, parameter: Parameter) -> Vec<String> {
    match parameter {
        Parameter::EmbeddingProjection(part) => vec![
            format!("roformer.embeddings_project.{part}"),
            format!("embeddings_project.{part}"),
        ],
        other => encoder_names(other, "roformer").unwrap_or_else(|| cls_head_names(other)),
    }
}

#[cfg(test)]
mod tests {
    use crate::encoder::Architecture;

    #[test]
    fn rotated_values_are_refused() {
        let config = r#"{"model_type": "roformer", "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 16, "rotary_value": true}"#;
        let error = Architecture::parse(config.as_bytes()).map(drop).unwrap_err();
        assert!(error.0[0].contains("rotary_value is true"), "{error}");
    }
}
