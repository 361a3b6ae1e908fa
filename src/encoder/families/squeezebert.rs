//! SqueezeBERT: <https://arxiv.org/abs/2006.11316>; BERT whose dense layers are grouped convolutions.

use super::bert_like::{self, cls_head_names};
use super::fields::Fields;
use super::{Family, Form};
use crate::encoder::{EncoderSpec, LayerModule, Parameter, Part};

pub const FAMILY: Family = Family {
    model_type: "squeezebert",
    name: "SqueezeBERT",
    class: "SqueezeBertForMaskedLM",
    parse: spec,
    names,
    form,
};

/// The dense layers, and the fields with the number of their groups.
const GROUPS: [(LayerModule, &str, usize); 6] = [
    (LayerModule::Query, "q_groups", 4),
    (LayerModule::Key, "k_groups", 4),
    (LayerModule::Value, "v_groups", 4),
    (LayerModule::AttentionOutput, "post_attention_groups", 1),
    (LayerModule::FeedForwardUp, "intermediate_groups", 4),
    (LayerModule::FeedForwardDown, "output_groups", 4),
];

fn spec(fields: &Fields) -> EncoderSpec {
    let mut spec = bert_like::spec(fields);
    let hidden = spec.hidden_size;
    let embedding = fields.size_or("embedding_size", hidden);
    fields.check(&["embedding_size", "hidden_size"], embedding == hidden, || {
        format!("embedding_size ({embedding}) is not hidden_size ({hidden})")
    });
    for (module, field, default) in GROUPS {
        let groups = fields.size_or(field, default);
        let shape = spec.shape(Parameter::Layer(0, module, Part::Weight));
        fields.check(
            &[field, "hidden_size", "intermediate_size"],
            shape.iter().all(|size| size.is_multiple_of(groups)),
            || format!("{field} ({groups}) does not divide {shape:?}, the shape of its layer"),
        );
        spec.convolution_groups.push((module, groups));
    }
    spec
}

fn form(spec: &EncoderSpec, parameter: Parameter, _: &str) -> Form {
    let groups = |module| spec.convolution_groups.iter().find(|(known, _)| *known == module);
    match parameter {
        Parameter::Layer(_, module, Part::Weight) => {
            groups(module).map_or(Form::Whole, |(_, groups)| Form::GroupedConvolution(*groups))
        }
        _ => Form::Whole,
    }
}

fn names(_: &EncoderSpec, parameter: Parameter) -> Vec<String> {
    match parameter {
        Parameter::Layer(layer, module, part) => {
            let name = format!("transformer.encoder.layers.{layer}.{}.{part}", name_of(module));
            vec![name]
        }
        other => bert_like::encoder_names(other, "transformer").unwrap_or_else(|| cls_head_names(other)),
    }
}

fn name_of(module: LayerModule) -> &'static str {
    match module {
        LayerModule::Query => "attention.query",
        LayerModule::Key => "attention.key",
        LayerModule::Value => "attention.value",
        LayerModule::AttentionOutput => "post_attention.conv1d",
        LayerModule::AttentionNorm => "post_attention.layernorm",
        LayerModule::FeedForwardGate | LayerModule::FeedForwardUp => "intermediate.conv1d",
        LayerModule::FeedForwardDown => "output.conv1d",
        LayerModule::OutputNorm => "output.layernorm",
    }
}
