//! Model families: one file for each, from its `config.json` to an [`EncoderSpec`] and the names of its tensors.
//!
//! | file | subject |
//! |---|---|
//! | `architecture` | a model's spec, and its parameters in a checkpoint |
//! | `fields` | the fields of a `config.json`, with their bounds |
//! | `bert_like` | fields and names that many families share with BERT |
//! | `refused` | reasons why the other architectures of transformers are refused |
//! | all others | a family, or families that differ in little but their name |
//!
//! To add a family: write its file with a [`Family`], list it in [`FAMILIES`], and add a golden checkpoint.

mod albert;
mod architecture;
mod bert;
mod bert_like;
mod data2vec;
mod distilbert;
mod electra;
mod ernie;
mod esm;
mod eurobert;
mod fields;
mod gte;
mod jina;
mod megatron_bert;
mod modernbert;
mod mpnet;
mod nomic_bert;
mod refused;
mod rembert;
mod roberta;
mod roberta_prelayernorm;
mod roformer;
mod squeezebert;
mod xlm_roberta_xl;

use super::{EncoderSpec, LayerModule, Parameter};
pub use architecture::Architecture;
use fields::Fields;

/// All families, in the order in which error messages name them.
const FAMILIES: &[&Family] = &[
    &bert::FAMILY,
    &roberta::ROBERTA,
    &roberta::XLM_ROBERTA,
    &roberta::CAMEMBERT,
    &xlm_roberta_xl::FAMILY,
    &roberta_prelayernorm::FAMILY,
    &data2vec::FAMILY,
    &ernie::FAMILY,
    &megatron_bert::FAMILY,
    &distilbert::FAMILY,
    &electra::FAMILY,
    &albert::FAMILY,
    &rembert::FAMILY,
    &squeezebert::FAMILY,
    &mpnet::FAMILY,
    &esm::FAMILY,
    &modernbert::FAMILY,
    &eurobert::FAMILY,
    &nomic_bert::FAMILY,
    &gte::GTE,
    &gte::NEW,
    &jina::FAMILY,
    &roformer::FAMILY,
];

/// An architecture of transformers that the encoder can run.
#[derive(Debug)]
pub struct Family {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// The name that people use, such as `RoBERTa`.
    pub name: &'static str,
    /// The class of transformers with the masked-language-model head.
    pub class: &'static str,
    /// The spec; what is wrong with the fields is recorded in them.
    parse: fn(&Fields) -> EncoderSpec,
    /// The names that checkpoints give to a parameter, the usual one first.
    names: fn(&EncoderSpec, Parameter) -> Vec<String>,
    /// The form in which checkpoints store a parameter under one of these names.
    form: fn(&EncoderSpec, Parameter, &str) -> Form,
}

/// The form in which a checkpoint stores a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As the encoder uses it.
    Whole,
    /// Some rows of a tensor that joins several dense layers.
    Rows {
        first: usize,
        /// Rows of the tensor.
        of: usize,
    },
    /// Groups of this many rows, each of which the encoder has several times in a row.
    RepeatedRows { rows: usize, times: usize },
    /// A dense layer's weight as a convolution over single tokens in this many groups: outputs of a group depend on
    /// inputs of the same group alone.
    GroupedConvolution(usize),
}

impl Form {
    /// Part `index` of a tensor that joins `parts` dense layers with this many outputs each.
    fn part(index: usize, parts: usize, outputs: usize) -> Self {
        Self::Rows {
            first: index * outputs,
            of: parts * outputs,
        }
    }
}

/// The form of families that store query, key and value as one tensor, in this order. Its name has `qkv` in it.
fn joined_query_key_value(spec: &EncoderSpec, parameter: Parameter, name: &str) -> Form {
    match parameter {
        _ if !name.contains("qkv") => Form::Whole,
        Parameter::Layer(_, LayerModule::Query, _) => Form::part(0, 3, spec.hidden_size),
        Parameter::Layer(_, LayerModule::Key, _) => Form::part(1, 3, spec.hidden_size),
        Parameter::Layer(_, LayerModule::Value, _) => Form::part(2, 3, spec.hidden_size),
        _ => Form::Whole,
    }
}

/// The name of a parameter in the modules of transformers 5, below `prefix`, where it differs from the name in the files
/// that transformers writes. A file that `torch.save` makes of a `state_dict` has such names; no layers are joined in it.
fn module_name(parameter: Parameter, prefix: &str) -> Option<String> {
    let name = match parameter {
        Parameter::EmbeddingNorm(part) => format!("embeddings.LayerNorm.{part}"),
        Parameter::Layer(layer, module, part) => {
            let module = match module {
                LayerModule::Query => "self_attn.q_proj",
                LayerModule::Key => "self_attn.k_proj",
                LayerModule::Value => "self_attn.v_proj",
                LayerModule::AttentionOutput => "self_attn.o_proj",
                LayerModule::AttentionNorm => "post_attention_layernorm",
                LayerModule::FeedForwardGate => "mlp.gate_proj",
                LayerModule::FeedForwardUp => "mlp.up_proj",
                LayerModule::FeedForwardDown => "mlp.down_proj",
                LayerModule::OutputNorm => "post_mlp_layernorm",
            };
            format!("layers.{layer}.{module}.{part}")
        }
        _ => return None,
    };
    Some(format!("{prefix}.{name}"))
}

/// The form of families that store every parameter as the encoder uses it.
fn whole(_: &EncoderSpec, _: Parameter, _: &str) -> Form {
    Form::Whole
}

/// The reasons for which a `config.json` is refused: a sentence for each field, which names it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join(". "))]
pub struct ConfigError(pub Vec<String>);

/// The model types of all families, in order.
fn supported() -> String {
    let known: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
    known.join(", ")
}
