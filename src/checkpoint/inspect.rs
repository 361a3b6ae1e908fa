//! What is in a checkpoint, and what of it would be refused: every fault, not the first alone.

use std::collections::HashSet;

use serde::Serialize;

use super::weights::SafetensorsFiles;
use super::{Source, config, tokenizer};
use crate::backend::Activation;
use crate::bert::{BertConfig, TensorSpec, WeightSource, is_tied, tensors};

/// A checkpoint from all sides. A part that cannot be read is absent, and `refusals` says why.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// The folder's name, the name on the hub, or `demo`.
    pub name: String,
    /// What `config.json` says.
    pub architecture: Option<Architecture>,
    /// What the tokenizer's files say.
    pub tokenizer: Option<TokenizerSummary>,
    /// What the weight files say.
    pub weights: Option<WeightsSummary>,
    /// Why Cloze does not serve it; empty if it does.
    pub refusals: Vec<String>,
}

/// The sizes of a BERT.
#[derive(Debug, Serialize)]
pub struct Architecture {
    /// Encoder layers.
    pub layers: usize,
    /// Width of a hidden state.
    pub hidden_size: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the feed-forward layers.
    pub intermediate_size: usize,
    /// Their activation.
    pub activation: &'static str,
    /// Entries of the vocabulary that the model has embeddings for.
    pub vocab_size: usize,
    /// The longest text in tokens.
    pub max_tokens: usize,
    /// Numbers that are read from the files.
    pub parameters: usize,
    /// Bytes that they take in memory as f32.
    pub weights_bytes: usize,
    /// Whether the decoder is the word embeddings.
    pub tied: bool,
}

/// The tokenizer.
#[derive(Debug, Serialize)]
pub struct TokenizerSummary {
    /// Where it came from.
    pub file: String,
    /// Entries, added tokens included.
    pub tokens: usize,
    /// What stands for a blank.
    pub mask_token: String,
    /// Its id.
    pub mask_id: u32,
}

/// The weight files.
#[derive(Debug, Serialize)]
pub struct WeightsSummary {
    /// Their paths.
    pub files: Vec<String>,
    /// Their tensors, by name.
    pub tensors: Vec<StoredTensor>,
}

/// A tensor as a file has it.
#[derive(Debug, Serialize)]
pub struct StoredTensor {
    /// Its name there.
    pub name: String,
    /// Its type there.
    pub dtype: String,
    /// Rows before columns.
    pub shape: Vec<usize>,
    /// Whether fill-mask needs it.
    pub used: bool,
}

impl Inspection {
    /// Reads everything, the weights' values too, one tensor after the other.
    pub fn of(source: Source) -> Self {
        let Source { name, files } = source;
        let mut refusals = Vec::new();
        let mut keep = |refusal: String| refusals.push(refusal);
        let config = config::read(&files).map_err(|e| keep(e.to_string())).ok();
        let tokenizer = tokenizer::read(&files).map_err(|e| keep(e.to_string())).ok();
        if let (Some(tokenizer), Some(config)) = (&tokenizer, &config)
            && let Err(error) = tokenizer.check_fits(config)
        {
            keep(error.to_string());
        }
        let mut weights = SafetensorsFiles::open(&files).map_err(|e| keep(e.to_string())).ok();
        let mut used = HashSet::new();
        let architecture = config.map(|config| {
            let mut tied = config.tie_word_embeddings;
            if let Some(weights) = &mut weights {
                match is_tied(&config, weights) {
                    Ok(known) => tied = known,
                    Err(error) => keep(error.to_string()),
                }
            }
            let contains = |name: &str| weights.as_ref().is_some_and(|weights| weights.contains(name));
            let needed = tensors(&config, tied, &contains);
            if let Some(weights) = &mut weights {
                for spec in &needed {
                    used.extend(weights.stored_name(&spec.name));
                    if let Err(error) = weights.tensor(&spec.name, &spec.shape) {
                        keep(error.to_string());
                    }
                }
            }
            Architecture::of(&config, tied, needed.iter().map(TensorSpec::parameters).sum())
        });
        Self {
            name,
            architecture,
            tokenizer: tokenizer.map(|tokenizer| TokenizerSummary {
                file: tokenizer.file().to_owned(),
                tokens: tokenizer.tokenizer.get_vocab_size(true),
                mask_token: tokenizer.mask_token,
                mask_id: tokenizer.mask_id,
            }),
            weights: weights.map(|weights| WeightsSummary::of(&weights, &used)),
            refusals,
        }
    }
}

impl Architecture {
    fn of(config: &BertConfig, tied: bool, parameters: usize) -> Self {
        Self {
            layers: config.num_hidden_layers,
            hidden_size: config.hidden_size,
            heads: config.num_attention_heads,
            intermediate_size: config.intermediate_size,
            activation: match config.hidden_act {
                Activation::Gelu => "gelu",
                Activation::GeluTanh => "gelu_new",
                Activation::Relu => "relu",
                Activation::Silu => "silu",
            },
            vocab_size: config.vocab_size,
            max_tokens: config.max_position_embeddings,
            parameters,
            weights_bytes: parameters * size_of::<f32>(),
            tied,
        }
    }
}

impl WeightsSummary {
    fn of(weights: &SafetensorsFiles, used: &HashSet<String>) -> Self {
        let mut tensors: Vec<StoredTensor> = weights
            .stored()
            .map(|(name, info)| StoredTensor {
                name: name.to_owned(),
                dtype: format!("{:?}", info.dtype),
                shape: info.shape.clone(),
                used: used.contains(name),
            })
            .collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            files: weights.paths().map(str::to_owned).collect(),
            tensors,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::bert::WeightError;
    use crate::checkpoint::Checkpoint;

    fn golden() -> impl Iterator<Item = PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden");
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_dir())
    }

    /// Notes what the model asks for.
    struct Noting<'a> {
        weights: &'a mut SafetensorsFiles,
        asked: HashSet<(String, Vec<usize>)>,
    }

    impl WeightSource for Noting<'_> {
        fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightError> {
            self.asked.insert((name.to_owned(), shape.to_vec()));
            self.weights.tensor(name, shape)
        }
        fn contains(&self, name: &str) -> bool {
            self.weights.contains(name)
        }
    }

    #[test]
    #[cfg(feature = "cpu")]
    fn the_list_of_tensors_is_what_loading_asks_for() {
        for folder in golden() {
            let mut checkpoint = Checkpoint::open(&folder).unwrap();
            let tied = is_tied(&checkpoint.config, &mut checkpoint.weights).unwrap();
            let known = |name: &str| checkpoint.weights.contains(name);
            let listed = tensors(&checkpoint.config, tied, &known);
            let listed: HashSet<_> = listed.into_iter().map(|spec| (spec.name, spec.shape)).collect();
            let mut noting = Noting {
                weights: &mut checkpoint.weights,
                asked: HashSet::new(),
            };
            crate::bert::Bert::<crate::backend::cpu::Cpu>::load(
                &checkpoint.config,
                &mut noting,
                &Default::default(),
                crate::backend::Precision::F32,
            )
            .unwrap();
            if tied {
                // It is compared with the embeddings, and not kept.
                noting
                    .asked
                    .retain(|(name, _)| name != "cls.predictions.decoder.weight");
            }
            assert_eq!(noting.asked, listed, "{}", folder.display());
        }
    }

    #[test]
    fn every_golden_checkpoint_is_sound() {
        for folder in golden() {
            let inspection = Inspection::of(Source::folder(&folder).unwrap());
            assert!(inspection.refusals.is_empty(), "{:?}", inspection.refusals);
            let weights = inspection.weights.unwrap();
            assert!(weights.tensors.iter().any(|tensor| tensor.used));
            assert!(inspection.tokenizer.unwrap().tokens > 0);
        }
    }
}
