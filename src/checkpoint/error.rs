//! Errors of reading a checkpoint.

use std::fmt;

use super::names::{
    CONFIG, MERGES, PYTORCH_INDEX, PYTORCH_WEIGHTS, TOKENIZER, VOCAB, VOCAB_JSON, WEIGHTS, WEIGHTS_INDEX,
};
use crate::hub::HubError;
use crate::sys::excerpt;

/// An error of reading a checkpoint. Each message names the file.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file or the folder cannot be read.
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    /// The path is a file; a checkpoint is a folder.
    #[error("{path} is a file, not a folder with {CONFIG}, a tokenizer and weights")]
    NotAFolder { path: String },
    /// The file is a pointer that Git LFS would replace with the real file.
    #[error("{path} is a Git LFS pointer, not the file itself; run \"git lfs pull\" in its folder")]
    LfsPointer { path: String },
    /// A part of the checkpoint is not there in any of its formats.
    #[error("{location} has {}", missing(*.part, *.other_weights))]
    Missing {
        part: Part,
        /// The folder, or the name on the hub.
        location: String,
        /// A weight file in a format that is not supported.
        other_weights: Option<&'static str>,
    },
    /// `config.json` is not valid, or describes a model that is not supported.
    #[error("{path}: {}", bounded(reasons))]
    Config {
        path: String,
        /// A sentence for each field.
        reasons: Vec<String>,
    },
    /// The tokenizer is not valid, or does not match the model.
    #[error("{file}: {}", excerpt::sentence(reason))]
    Tokenizer { file: String, reason: String },
    /// The weights have no masked-language-model head, as those of a text-embedding model.
    #[error(
        "the weights have no masked-language-model head{}",
        architectures.as_ref().map_or_else(String::new, |names| format!("; {CONFIG} gives the architecture as {}", excerpt::name(names)))
    )]
    NoHead { architectures: Option<String> },
    /// None of the tensors has a name of the model's architecture.
    #[error("none of the tensors is named as in {class}{}", named(.example, .prefix.as_deref()))]
    OtherNames {
        /// transformers' class of the architecture.
        class: &'static str,
        /// The name of a tensor that is there.
        example: String,
        /// The common prefix of all tensor names.
        prefix: Option<String>,
    },
    /// A weight file, or a tensor in it.
    #[error("{0}")]
    Weights(TensorError),
    /// Weights that are missing or cannot be read, and a revision that has them in safetensors format.
    #[error("{error}; a pull request of the hub's conversion service has the weights in safetensors format")]
    Converted {
        error: Box<CheckpointError>,
        /// Such as `refs/pr/3`.
        revision: String,
    },
    /// The hub, or the cache of its files.
    #[error(transparent)]
    Hub(#[from] HubError),
}

/// A tensor that cannot be read. The message names it.
#[derive(Debug, thiserror::Error)]
#[error("{}", excerpt::long(.0))]
pub struct TensorError(pub String);

/// A part of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Config,
    Tokenizer,
    /// `vocab.txt`, for a tokenizer that no other file describes.
    Vocabulary,
    Weights,
}

impl CheckpointError {
    /// An error for each field of `config.json` that this one names; other errors as they are.
    pub fn split(self) -> Vec<Self> {
        match self {
            Self::Config { path, reasons } => {
                let alone = |reason| Self::Config {
                    path: path.clone(),
                    reasons: vec![reason],
                };
                reasons.into_iter().map(alone).collect()
            }
            other => vec![other],
        }
    }
}

fn bounded(reasons: &[String]) -> String {
    let reasons: Vec<String> = reasons.iter().map(|reason| excerpt::list(reason).to_string()).collect();
    reasons.join(". ")
}

fn named(example: &str, prefix: Option<&str>) -> String {
    match prefix {
        Some(prefix) => format!("; all names begin with \"{prefix}\", which must be removed"),
        None => format!("; one of them is {example}"),
    }
}

fn missing(part: Part, other_weights: Option<&str>) -> impl fmt::Display {
    match (part, other_weights) {
        (Part::Config, _) => format!("no {CONFIG}; it is not a model in the format of transformers"),
        (Part::Tokenizer, _) => {
            format!("neither {TOKENIZER} nor {VOCAB}, nor {VOCAB_JSON} with {MERGES}, nor a SentencePiece model")
        }
        (Part::Vocabulary, _) => format!("no {VOCAB}, of which the tokenizer of its class is built"),
        (Part::Weights, None) => format!(
            "no weights in safetensors format ({WEIGHTS} or {WEIGHTS_INDEX}) or in PyTorch's ({PYTORCH_WEIGHTS} or \
             {PYTORCH_INDEX})"
        ),
        (Part::Weights, Some(file)) if file.starts_with("adapter_model") => format!(
            "no weights but {file}, an adapter to the weights of another model; merge it into that model and save the \
             result with save_pretrained"
        ),
        (Part::Weights, Some(file)) => format!(
            "its weights only as {file}, and Cloze reads safetensors and PyTorch's files; use a revision that has \
             them, or convert them: transformers' save_pretrained writes safetensors"
        ),
    }
}
