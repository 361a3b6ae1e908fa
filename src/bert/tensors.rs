//! Which tensors a BERT is made of, without loading it.

use super::BertConfig;
use super::head::{DECODER, WORD_EMBEDDINGS, bias_name};

/// A tensor that [`Bert::load`](super::Bert::load) asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Under the name that `BertForMaskedLM` gives it.
    pub name: String,
    /// Rows before columns.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Numbers in it.
    pub fn parameters(&self) -> usize {
        self.shape.iter().product()
    }
}

/// All tensors of a model with this configuration. `tied` says whether the decoder is the word embeddings, and
/// `contains` under which of its two names the checkpoint has the decoder's bias.
pub fn tensors(config: &BertConfig, tied: bool, contains: &dyn Fn(&str) -> bool) -> Vec<TensorSpec> {
    let (hidden, inner, vocab) = (config.hidden_size, config.intermediate_size, config.vocab_size);
    let mut specs = Vec::new();
    let mut add = |name: &str, shape: &[usize]| {
        specs.push(TensorSpec {
            name: name.to_owned(),
            shape: shape.to_vec(),
        });
    };
    let norm = |add: &mut dyn FnMut(&str, &[usize]), name: &str| {
        add(&format!("{name}.weight"), &[hidden]);
        add(&format!("{name}.bias"), &[hidden]);
    };
    let linear = |add: &mut dyn FnMut(&str, &[usize]), name: &str, outputs: usize, inputs: usize| {
        add(&format!("{name}.weight"), &[outputs, inputs]);
        add(&format!("{name}.bias"), &[outputs]);
    };
    add(WORD_EMBEDDINGS, &[vocab, hidden]);
    let positions = [config.max_position_embeddings, hidden];
    add("bert.embeddings.position_embeddings.weight", &positions);
    add(
        "bert.embeddings.token_type_embeddings.weight",
        &[config.type_vocab_size, hidden],
    );
    norm(&mut add, "bert.embeddings.LayerNorm");
    for index in 0..config.num_hidden_layers {
        let layer = format!("bert.encoder.layer.{index}");
        for part in ["query", "key", "value"] {
            linear(&mut add, &format!("{layer}.attention.self.{part}"), hidden, hidden);
        }
        linear(&mut add, &format!("{layer}.attention.output.dense"), hidden, hidden);
        norm(&mut add, &format!("{layer}.attention.output.LayerNorm"));
        linear(&mut add, &format!("{layer}.intermediate.dense"), inner, hidden);
        linear(&mut add, &format!("{layer}.output.dense"), hidden, inner);
        norm(&mut add, &format!("{layer}.output.LayerNorm"));
    }
    linear(&mut add, "cls.predictions.transform.dense", hidden, hidden);
    norm(&mut add, "cls.predictions.transform.LayerNorm");
    add(bias_name(tied, contains), &[vocab]);
    if !tied {
        add(DECODER, &[vocab, hidden]);
    }
    specs
}
