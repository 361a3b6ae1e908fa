//! Contents of a checkpoint, with every error in it, not only the first.

use std::collections::HashSet;
use std::fmt::{self, Display, Formatter};

use super::pretrained::{architecture, check_head};
use super::{LoadError, MemoryNeed};
use crate::backend::Precision;
use crate::checkpoint::{CheckpointError, Source, TooFewTokens, WeightFiles};
use crate::encoder::Architecture;

/// Contents of a checkpoint. A part that cannot be read is `None`, with the reason in `errors`.
#[derive(Debug)]
pub struct Inspection {
    /// The folder's name, the name on the hub, or `demo`.
    pub name: String,
    pub architecture: Option<ArchitectureSummary>,
    pub tokenizer: Option<TokenizerSummary>,
    pub weights: Option<WeightsSummary>,
    /// On the CPU in f32.
    pub memory: Option<MemoryNeed>,
    pub warnings: Vec<Warning>,
    /// The errors for which Cloze refuses the model.
    pub errors: Vec<LoadError>,
}

/// A property of a checkpoint with which Cloze serves it, but probably not as its user expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warning {
    TooFewTokens(TooFewTokens),
    /// transformers 4 took another bias of the checkpoint; transformers 5 takes none.
    NoDecoderBias,
}

impl Display for Warning {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFewTokens(few) => few.fmt(f),
            Self::NoDecoderBias => f.write_str(
                "the decoder is not tied to the embeddings and has no bias of its own: as in transformers 5 its bias is zero",
            ),
        }
    }
}

/// Sizes of the model.
#[derive(Debug)]
pub struct ArchitectureSummary {
    /// The name of the family, such as `BERT`.
    pub family: &'static str,
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
    /// False if the decoder has no bias, or the weights have none for a decoder that is not tied.
    pub decoder_bias: bool,
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
    /// True if the model uses it; `None` if the errors of the checkpoint leave that open.
    pub used: Option<bool>,
}

impl Inspection {
    /// Reads all files, with the values of every tensor, one tensor at a time. Values for which there is too little
    /// memory are not read.
    pub fn of(source: Source) -> Self {
        let (mut errors, mut warnings) = (Vec::new(), Vec::new());
        let mut add = |error: CheckpointError| errors.extend(error.split().into_iter().map(LoadError::from));
        let architecture = architecture(&source).map_err(&mut add).ok();
        let tokenizer = source.tokenizer().map_err(&mut add).ok();
        if let (Some(tokenizer), Some(architecture)) = (&tokenizer, &architecture) {
            let vocab_size = architecture.spec.vocab_size;
            warnings.extend(tokenizer.too_few_tokens(vocab_size).map(Warning::TooFewTokens));
            let _ = tokenizer.check_fits(vocab_size).map_err(&mut add);
        }
        let mut weights = source.weights().map_err(&mut add).ok();
        let _ = source.sums_sparse_vectors().map_err(&mut add);
        let mut used = None;
        let mut memory = None;
        let architecture = architecture.map(|mut architecture| {
            let need = memory.insert(MemoryNeed::new(&architecture.spec, Precision::F32));
            if let Some(weights) = weights.as_mut().filter(|_| need.can_read()) {
                match architecture.clone().with_stored_decoder(weights) {
                    Ok(stored) => {
                        let lost_bias = architecture.spec.biases.decoder && !stored.spec.biases.decoder;
                        warnings.extend(lost_bias.then_some(Warning::NoDecoderBias));
                        *need = MemoryNeed::new(&stored.spec, Precision::F32);
                        architecture = stored;
                    }
                    Err(error) => add(CheckpointError::Weights(error)),
                }
                let checked = check_head(&source, &architecture, weights);
                // One error names all tensors of an absent head, and one all tensors if none has its name.
                let (has_names, has_head) = match &checked {
                    Ok(()) => (true, true),
                    Err(CheckpointError::OtherNames { .. }) => (false, false),
                    Err(_) => (true, false),
                };
                let _ = checked.map_err(&mut add);
                let used = used.insert(HashSet::new());
                for parameter in architecture.spec.parameters() {
                    used.insert(architecture.stored_name(parameter, weights));
                    if has_names
                        && let Err(error) = architecture.read(parameter, weights)
                        && (has_head || !parameter.is_of_head())
                    {
                        add(CheckpointError::Weights(error));
                    }
                }
            }
            ArchitectureSummary::of(&architecture)
        });
        if let Some(error) = memory.and_then(|need: MemoryNeed| need.check(Precision::F32).err()) {
            errors.push(error);
        }
        // The word embeddings are read as the decoder too.
        let mut shown = HashSet::new();
        errors.retain(|error: &LoadError| shown.insert(error.to_string()));
        Self {
            name: source.name,
            memory,
            warnings,
            architecture,
            tokenizer: tokenizer.map(|tokenizer| TokenizerSummary {
                file: tokenizer.file().to_owned(),
                tokens: tokenizer.tokenizer.get_vocab_size(true),
                mask_token: tokenizer.mask_token,
                mask_id: tokenizer.mask_id,
            }),
            weights: weights.map(|weights| WeightsSummary::of(&weights, used.as_ref())),
            errors,
        }
    }
}

impl ArchitectureSummary {
    fn of(Architecture { family, spec }: &Architecture) -> Self {
        let parameters = spec.parameters().into_iter();
        let parameters = parameters.map(|parameter| spec.elements(parameter)).sum();
        Self {
            family: family.name,
            layers: spec.layer_order.len(),
            hidden_size: spec.hidden_size,
            heads: spec.heads,
            intermediate_size: spec.intermediate_size,
            activation: spec.activation.name(),
            vocab_size: spec.vocab_size,
            max_tokens: spec.max_tokens(),
            parameters,
            weights_bytes: parameters * size_of::<f32>(),
            tied: spec.head.tied_decoder,
            decoder_bias: spec.biases.decoder,
        }
    }
}

impl WeightsSummary {
    fn of(weights: &WeightFiles, used: Option<&HashSet<String>>) -> Self {
        let mut tensors: Vec<StoredTensor> = weights
            .stored()
            .map(|(name, info)| StoredTensor {
                name: name.to_owned(),
                dtype: info.element.to_string(),
                shape: info.shape.clone(),
                used: used.map(|used| used.contains(name)),
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
    use crate::checkpoint::{TensorError, TensorSource};
    use crate::encoder::{Encoder, Parameter};

    fn golden() -> impl Iterator<Item = PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden");
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_dir())
    }

    /// Records the tensors that the model loads.
    struct Recorder<'a> {
        weights: &'a mut WeightFiles,
        requested: HashSet<(String, Vec<usize>)>,
    }

    impl TensorSource for Recorder<'_> {
        fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, TensorError> {
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
            let source = Source::folder(&folder).unwrap();
            let (architecture, mut weights) = (architecture(&source).unwrap(), source.weights().unwrap());
            let stored = architecture.clone().with_stored_decoder(&mut weights).unwrap();
            let parameters = stored.spec.parameters().into_iter();
            let listed: HashSet<_> = parameters
                .map(|parameter| {
                    let name = stored.stored_name(parameter, &weights);
                    let shape = stored.stored_shape(parameter, &name);
                    (name, shape)
                })
                .collect();
            let mut recorder = Recorder {
                weights: &mut weights,
                requested: HashSet::new(),
            };
            Encoder::<crate::backend::cpu::Cpu>::load(
                &architecture,
                &mut recorder,
                &Default::default(),
                crate::backend::Precision::F32,
            )
            .unwrap();
            if stored.spec.head.tied_decoder {
                // Loading compares it with the embeddings and drops it.
                let decoder = stored.stored_name(Parameter::Decoder, recorder.weights);
                recorder.requested.retain(|(name, _)| *name != decoder);
            }
            assert_eq!(recorder.requested, listed, "{}", folder.display());
        }
    }

    #[test]
    fn an_error_of_a_tensor_that_is_read_twice_is_listed_once() {
        let folder = tempfile::tempdir().unwrap();
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/tiny");
        for entry in std::fs::read_dir(tiny).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        let path = folder.path().join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let stored = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let name = "bert.embeddings.word_embeddings.weight";
        let embeddings = stored.tensor(name).unwrap();
        let broken = f32::NAN.to_le_bytes().repeat(embeddings.data().len() / 4);
        let broken =
            safetensors::tensor::TensorView::new(embeddings.dtype(), embeddings.shape().to_vec(), &broken).unwrap();
        // Loading compares a stored decoder with the embeddings.
        let decoder = ("cls.predictions.decoder.weight".to_owned(), embeddings.clone());
        let others = stored.tensors().into_iter().filter(|(other, _)| other != name);
        let tensors = others.chain([(name.to_owned(), broken), decoder]);
        safetensors::serialize_to_file(tensors, None, &path).unwrap();
        let inspection = Inspection::of(Source::folder(folder.path()).unwrap());
        let errors: Vec<String> = inspection.errors.iter().map(ToString::to_string).collect();
        assert!(errors.len() == 1 && errors[0].contains(name), "{errors:?}");
    }

    #[test]
    fn golden_checkpoints_have_no_errors() {
        for folder in golden() {
            let inspection = Inspection::of(Source::folder(&folder).unwrap());
            assert!(inspection.errors.is_empty(), "{:?}", inspection.errors);
            let weights = inspection.weights.unwrap();
            assert!(weights.tensors.iter().any(|tensor| tensor.used == Some(true)));
            assert!(inspection.tokenizer.unwrap().tokens > 0);
        }
    }
}
