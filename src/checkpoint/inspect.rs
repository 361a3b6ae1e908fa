//! Contents of a checkpoint, with every error in it, not only the first.

use std::collections::HashSet;

use super::weights::SafetensorsFiles;
use super::{CheckpointError, Source, config, tokenizer};
use crate::backend::Activation;
use crate::bert::{BertConfig, TensorSpec, WeightSource, is_tied, tensors};

/// Contents of a checkpoint. A part that cannot be read is `None`, with the reason in `errors`.
#[derive(Debug)]
pub struct Inspection {
    /// The folder's name, the name on the hub, or `demo`.
    pub name: String,
    pub architecture: Option<Architecture>,
    pub tokenizer: Option<TokenizerSummary>,
    pub weights: Option<WeightsSummary>,
    /// The errors for which Cloze refuses the model.
    pub errors: Vec<CheckpointError>,
}

/// Sizes of the model.
#[derive(Debug)]
pub struct Architecture {
    pub layers: usize,
    pub hidden_size: usize,
    pub heads: usize,
    pub intermediate_size: usize,
    pub activation: &'static str,
    /// Rows of the word embeddings.
    pub vocab_size: usize,
    /// Longest text in tokens.
    pub max_tokens: usize,
    /// Number of parameters that the model uses.
    pub parameters: usize,
    /// Bytes of the parameters in f32.
    pub weights_bytes: usize,
    /// True if the decoder's weight is the word embeddings.
    pub tied: bool,
}

/// Properties of the tokenizer.
#[derive(Debug)]
pub struct TokenizerSummary {
    /// Path of its file.
    pub file: String,
    /// Size of the vocabulary, with added tokens.
    pub tokens: usize,
    pub mask_token: String,
    pub mask_id: u32,
}

/// Properties of the weight files.
#[derive(Debug)]
pub struct WeightsSummary {
    /// Paths.
    pub files: Vec<String>,
    /// Sorted by name.
    pub tensors: Vec<StoredTensor>,
}

/// A tensor in a weight file.
#[derive(Debug)]
pub struct StoredTensor {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    /// True if the model uses it.
    pub used: bool,
}

impl Inspection {
    /// Reads all files, with the values of every tensor, one tensor at a time.
    pub fn of(source: Source) -> Self {
        let Source { name, files } = source;
        let mut errors = Vec::new();
        let mut add = |error: CheckpointError| errors.push(error);
        let config = config::read(&files).map_err(&mut add).ok();
        let tokenizer = tokenizer::read(&files).map_err(&mut add).ok();
        if let (Some(tokenizer), Some(config)) = (&tokenizer, &config)
            && let Err(error) = tokenizer.check_fits(config)
        {
            add(error);
        }
        let mut weights = SafetensorsFiles::open(&files).map_err(&mut add).ok();
        let mut used = HashSet::new();
        let architecture = config.map(|config| {
            let mut tied = config.tie_word_embeddings;
            if let Some(weights) = &mut weights {
                match is_tied(&config, weights) {
                    Ok(known) => tied = known,
                    Err(error) => add(CheckpointError::Weights(error)),
                }
            }
            let contains = |name: &str| weights.as_ref().is_some_and(|weights| weights.contains(name));
            let needed = tensors(&config, tied, &contains);
            if let Some(weights) = &mut weights {
                for spec in &needed {
                    used.extend(weights.stored_name(&spec.name));
                    if let Err(error) = weights.tensor(&spec.name, &spec.shape) {
                        add(CheckpointError::Weights(error));
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
            errors,
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

    /// Records the tensors that the model loads.
    struct Recorder<'a> {
        weights: &'a mut SafetensorsFiles,
        requested: HashSet<(String, Vec<usize>)>,
    }

    impl WeightSource for Recorder<'_> {
        fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightError> {
            self.requested.insert((name.to_owned(), shape.to_vec()));
            self.weights.tensor(name, shape)
        }
        fn contains(&self, name: &str) -> bool {
            self.weights.contains(name)
        }
    }

    #[test]
    #[cfg(feature = "cpu")]
    fn the_list_of_tensors_matches_what_loading_reads() {
        for folder in golden() {
            let mut checkpoint = Checkpoint::open(&folder).unwrap();
            let tied = is_tied(&checkpoint.config, &mut checkpoint.weights).unwrap();
            let known = |name: &str| checkpoint.weights.contains(name);
            let listed = tensors(&checkpoint.config, tied, &known);
            let listed: HashSet<_> = listed.into_iter().map(|spec| (spec.name, spec.shape)).collect();
            let mut recorder = Recorder {
                weights: &mut checkpoint.weights,
                requested: HashSet::new(),
            };
            crate::bert::Bert::<crate::backend::cpu::Cpu>::load(
                &checkpoint.config,
                &mut recorder,
                &Default::default(),
                crate::backend::Precision::F32,
            )
            .unwrap();
            if tied {
                // Loading compares it with the embeddings and drops it.
                recorder
                    .requested
                    .retain(|(name, _)| name != "cls.predictions.decoder.weight");
            }
            assert_eq!(recorder.requested, listed, "{}", folder.display());
        }
    }

    #[test]
    fn golden_checkpoints_have_no_errors() {
        for folder in golden() {
            let inspection = Inspection::of(Source::folder(&folder).unwrap());
            assert!(inspection.errors.is_empty(), "{:?}", inspection.errors);
            let weights = inspection.weights.unwrap();
            assert!(weights.tensors.iter().any(|tensor| tensor.used));
            assert!(inspection.tokenizer.unwrap().tokens > 0);
        }
    }
}
