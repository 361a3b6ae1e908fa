//! A model's spec from its `config.json`, and its parameters from the tensors of its checkpoint.

use super::fields::Fields;
use super::{ConfigError, FAMILIES, Family, Form, bert, refused};
use crate::checkpoint::{TensorError, TensorSource};
use crate::encoder::{EncoderSpec, Parameter};

/// An encoder's sizes and options, and the names of its tensors.
#[derive(Clone, Debug)]
pub struct Architecture {
    pub family: &'static Family,
    pub spec: EncoderSpec,
}

impl Architecture {
    /// Reads the text of a `config.json`. Without a `model_type` it is taken for BERT's.
    ///
    /// # Errors
    /// [`ConfigError`] for a file that is not JSON, and with every field that is missing, wrong or not supported.
    pub fn parse(config: &[u8]) -> Result<Self, ConfigError> {
        let fields = Fields::parse(config)?;
        let model_type = fields.text_or("model_type", bert::FAMILY.model_type);
        match FAMILIES.iter().find(|family| family.model_type == model_type) {
            Some(family) => {
                let spec = (family.parse)(&fields);
                fields.finish(Self { family, spec })
            }
            None => Err(ConfigError(vec![refused::reason(model_type)])),
        }
    }

    /// The same, with `tied_decoder` as the checkpoint has it: some store a decoder of their own beside a config that
    /// says it is tied. As in transformers 5 a stored decoder counts, unless it equals the word embeddings. A decoder
    /// that the config says is not tied has the bias that is stored as its own, and none if there is no such bias.
    ///
    /// # Errors
    /// A tensor that is stored and cannot be read.
    pub fn with_stored_decoder(mut self, source: &mut dyn TensorSource) -> Result<Self, TensorError> {
        if !self.spec.head.tied_decoder && self.shares_bias() {
            let bias = self.stored_name(Parameter::DecoderBias, source);
            self.spec.biases.decoder = is_of_decoder(&bias);
        }
        let decoder = self.stored_name(Parameter::Decoder, source);
        if self.spec.head.tied_decoder && source.contains(&decoder) {
            let shape = self.spec.shape(Parameter::Decoder);
            let is_same = source.tensor(&decoder, &shape)? == self.read(Parameter::WordEmbeddings, source)?;
            self.spec.head.tied_decoder = is_same;
        }
        Ok(self)
    }

    /// True if the head and its decoder have a bias each, of which transformers ties one to the other.
    fn shares_bias(&self) -> bool {
        let names = (self.family.names)(&self.spec, Parameter::DecoderBias);
        names.len() > 1 && names.iter().any(|name| is_of_decoder(name))
    }

    /// The name under which `source` has a parameter, or the usual name if it has it under none.
    pub fn stored_name(&self, parameter: Parameter, source: &dyn TensorSource) -> String {
        let mut names = self.names(parameter);
        let stored = names.iter().position(|name| source.contains(name));
        names.swap_remove(stored.unwrap_or(0))
    }

    pub(super) fn names(&self, parameter: Parameter) -> Vec<String> {
        let spelled = |parameter: Parameter| {
            let names = (self.family.names)(&self.spec, parameter).into_iter();
            names.flat_map(move |name| spellings(name, parameter.is_of_head()))
        };
        let mut names: Vec<String> = spelled(parameter).collect();
        if parameter == Parameter::WordEmbeddings && self.spec.head.tied_decoder {
            // Of two tensors that share their memory, some programs store only one.
            names.extend(spelled(Parameter::Decoder));
        }
        // As transformers: a model that has this one as its encoder adds the name of the encoder once more.
        if let Some(base) = self.base() {
            names.extend(names.clone().iter().map(|name| format!("{base}.{name}")));
        }
        names
    }

    /// The first part of the encoder's names, such as `bert`.
    fn base(&self) -> Option<String> {
        let names = (self.family.names)(&self.spec, Parameter::WordEmbeddings);
        names.first()?.split_once('.').map(|(base, _)| base.to_owned())
    }

    /// The shape in which checkpoints store a parameter under the name `name`.
    pub fn stored_shape(&self, parameter: Parameter, name: &str) -> Vec<usize> {
        let shape = self.spec.shape(parameter);
        match (self.form(parameter, name), shape.as_slice()) {
            (Form::GroupedConvolution(groups), &[outputs, inputs]) => vec![outputs, inputs / groups, 1],
            (Form::Rows { of, .. }, [_, columns @ ..]) => [&[of], columns].concat(),
            (Form::RepeatedRows { times, .. }, [rows, columns @ ..]) => [&[rows / times], columns].concat(),
            _ => shape,
        }
    }

    fn form(&self, parameter: Parameter, name: &str) -> Form {
        (self.family.form)(&self.spec, parameter, name)
    }

    /// The values of a parameter, row-major.
    ///
    /// # Errors
    /// A tensor that is missing, has another shape, or cannot be read.
    pub fn read(&self, parameter: Parameter, source: &mut dyn TensorSource) -> Result<Vec<f32>, TensorError> {
        let name = self.stored_name(parameter, source);
        let values = source.tensor(&name, &self.stored_shape(parameter, &name))?;
        Ok(
            match (self.form(parameter, &name), self.spec.shape(parameter).as_slice()) {
                (Form::GroupedConvolution(groups), &[outputs, inputs]) => {
                    block_diagonal(&values, outputs, inputs, groups)
                }
                (Form::Rows { first, .. }, &[rows, ref columns @ ..]) => {
                    let row = columns.iter().product::<usize>();
                    values[first * row..(first + rows) * row].to_vec()
                }
                (Form::RepeatedRows { rows, times }, [_, columns @ ..]) => {
                    let group = rows * columns.iter().product::<usize>();
                    let groups = values.chunks_exact(group);
                    groups.flat_map(|group| group.repeat(times)).collect()
                }
                _ => values,
            },
        )
    }
}

fn is_of_decoder(bias: &str) -> bool {
    bias.ends_with("decoder.bias")
}

/// The weight `[outputs, inputs]` of the grouped convolution `values` `[outputs, inputs / groups]`.
fn block_diagonal(values: &[f32], outputs: usize, inputs: usize, groups: usize) -> Vec<f32> {
    let columns = inputs / groups;
    let mut weight = vec![0.0; outputs * inputs];
    let rows = weight.chunks_exact_mut(inputs).zip(values.chunks_exact(columns));
    for (output, (row, values)) in rows.enumerate() {
        let first = output / (outputs / groups) * columns;
        row[first..first + columns].copy_from_slice(values);
    }
    weight
}

/// Spellings of a tensor's name: as it is, with the old names of a layer normalization's parts (`gamma`, `beta`), and
/// both without the first part of an encoder's name (`bert.`), which checkpoints of the encoder without its head lack.
fn spellings(name: String, is_of_head: bool) -> Vec<String> {
    let mut names = old_spellings(name);
    if !is_of_head {
        let without = names.iter().filter_map(|name| name.split_once('.'));
        let without: Vec<String> = without.map(|(_, name)| name.to_owned()).collect();
        names.extend(without);
    }
    names
}

/// A tensor's name, and the name with the old spelling of a layer normalization's part.
fn old_spellings(name: String) -> Vec<String> {
    let old = match name.rsplit_once("LayerNorm.") {
        Some((before, "weight")) => Some(format!("{before}LayerNorm.gamma")),
        Some((before, "bias")) => Some(format!("{before}LayerNorm.beta")),
        _ => None,
    };
    std::iter::once(name).chain(old).collect()
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;

    #[test]
    fn a_tensor_is_found_under_each_of_its_spellings() {
        assert_eq!(
            spellings("bert.embeddings.LayerNorm.weight".to_owned(), false),
            [
                "bert.embeddings.LayerNorm.weight",
                "bert.embeddings.LayerNorm.gamma",
                "embeddings.LayerNorm.weight",
                "embeddings.LayerNorm.gamma",
            ]
        );
        assert_eq!(
            spellings("cls.predictions.bias".to_owned(), true),
            ["cls.predictions.bias"]
        );
    }

    /// Names without values.
    struct Stored<'a>(&'a [&'a str]);

    impl TensorSource for Stored<'_> {
        fn tensor(&mut self, name: &str, _: &[usize]) -> Result<Vec<f32>, TensorError> {
            Err(TensorError(name.to_owned()))
        }
        fn contains(&self, name: &str) -> bool {
            self.0.contains(&name)
        }
    }

    #[test]
    fn a_decoder_that_is_not_tied_has_its_own_bias_or_none() {
        for (model_type, own, shared) in [
            ("bert", "cls.predictions.decoder.bias", "cls.predictions.bias"),
            ("roberta", "lm_head.decoder.bias", "lm_head.bias"),
            ("albert", "predictions.decoder.bias", "predictions.bias"),
        ] {
            for (is_tied, stored, expected) in [
                (true, &[shared][..], Some(shared)),
                (true, &[own, shared], Some(own)),
                (false, &[own, shared], Some(own)),
                (false, &[own], Some(own)),
                (false, &[shared], None),
                // Refused by its usual name.
                (false, &[], Some(own)),
            ] {
                let config = serde_json::json!({
                    "model_type": model_type, "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1,
                    "num_attention_heads": 2, "intermediate_size": 8, "embedding_size": 16,
                    "tie_word_embeddings": is_tied,
                });
                let architecture = Architecture::parse(config.to_string().as_bytes()).unwrap();
                let mut source = Stored(stored);
                let architecture = architecture.with_stored_decoder(&mut source).unwrap();
                let has_bias = architecture.spec.parameters().contains(&Parameter::DecoderBias);
                let name = has_bias.then(|| architecture.stored_name(Parameter::DecoderBias, &source));
                assert_eq!(name.as_deref(), expected, "{model_type} {is_tied} {stored:?}");
            }
        }
    }

    /// As in files of the encoder without its head, and in TensorFlow's names.
    #[test]
    fn every_family_finds_tensors_without_the_first_part_of_their_names() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/golden");
        let folders = std::fs::read_dir(golden).unwrap().map(|entry| entry.unwrap().path());
        let mut families = std::collections::HashSet::new();
        for folder in folders.filter(|path| path.is_dir()) {
            let config = std::fs::read(folder.join("config.json")).unwrap();
            let architecture = Architecture::parse(&config).unwrap();
            families.insert(architecture.family.model_type);
            let parameters = architecture.spec.parameters().into_iter();
            for parameter in parameters.filter(|parameter| !parameter.is_of_head()) {
                let names = architecture.names(parameter);
                let (_, without) = names[0].split_once('.').unwrap();
                assert!(names.iter().any(|name| name == without), "{names:?}");
                let old = names[0].replace("LayerNorm.weight", "LayerNorm.gamma");
                assert!(names.contains(&old), "{names:?}");
            }
            // As in files of a model that has this one as its encoder.
            let base = architecture.base().unwrap();
            for parameter in architecture.spec.parameters() {
                let names = architecture.names(parameter);
                assert!(names.contains(&format!("{base}.{}", names[0])), "{names:?}");
            }
        }
        assert_eq!(families.len(), FAMILIES.len());
    }

    /// Parts of names in files and in transformers' modules, from `conversion_mapping.py` of transformers 5.24. Several
    /// names are those of the layers that a tensor of the file joins.
    const MODULE_NAMES: [(&str, &[&str]); 17] = [
        ("encoder.layers.", &["layers."]),
        ("encoder.layer.", &["layers."]),
        ("emb_ln", &["embeddings.LayerNorm"]),
        (
            "attn.Wqkv",
            &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        ),
        (
            "mixer.Wqkv",
            &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        ),
        (
            "attention.qkv_proj",
            &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        ),
        ("attn.out_proj", &["self_attn.o_proj"]),
        ("mixer.out_proj", &["self_attn.o_proj"]),
        ("attention.o_proj", &["self_attn.o_proj"]),
        ("norm1", &["post_attention_layernorm"]),
        ("attn_ln", &["post_attention_layernorm"]),
        ("norm2", &["post_mlp_layernorm"]),
        ("mlp_ln", &["post_mlp_layernorm"]),
        ("fc11", &["up_proj"]),
        ("fc12", &["gate_proj"]),
        ("up_gate_proj", &["up_proj", "gate_proj"]),
        ("lm_head.norm", &["lm_head.layer_norm"]),
    ];

    /// A checkpoint as `torch.save(model.state_dict())` writes it: a map of its tensors.
    struct StateDict(std::collections::HashMap<String, (Vec<usize>, Vec<f32>)>);

    impl StateDict {
        fn of(folder: &str) -> Self {
            let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/golden/").to_owned() + folder;
            let mut files = crate::checkpoint::Source::folder(folder.as_ref())
                .unwrap()
                .weights()
                .unwrap();
            let stored = files
                .stored()
                .map(|(name, tensor)| (name.to_owned(), tensor.shape.clone()));
            let stored: Vec<_> = stored.collect();
            let mut all = std::collections::HashMap::new();
            for (file_name, shape) in stored {
                let values = files.tensor(&file_name, &shape).unwrap();
                let mut names = vec![file_name.clone()];
                for (part, parts) in MODULE_NAMES {
                    names = names
                        .iter()
                        .flat_map(|name| parts.iter().map(move |with| name.replace(part, with)))
                        .collect();
                    names.dedup();
                }
                // In the other families it keeps its name.
                if file_name.starts_with("nomic_bert.") {
                    names[0] = names[0].replace("fc2", "down_proj");
                }
                let (rows, length) = (shape[0] / names.len(), values.len() / names.len());
                for (name, values) in names.into_iter().zip(values.chunks(length)) {
                    let shape = [&[rows], &shape[1..]].concat();
                    assert!(all.insert(name, (shape, values.to_vec())).is_none());
                }
            }
            Self(all)
        }
    }

    impl TensorSource for StateDict {
        fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, TensorError> {
            match self.0.get(name) {
                Some((stored, values)) if stored == shape => Ok(values.clone()),
                _ => Err(TensorError(format!("there is no {name} {shape:?}"))),
            }
        }

        fn contains(&self, name: &str) -> bool {
            self.0.contains_key(name)
        }
    }

    #[test]
    fn tensors_are_found_under_the_names_of_transformers_modules() {
        for folder in ["nomic-bert", "gte", "jina-embeddings-v3"] {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/golden/").to_owned() + folder;
            let source = crate::checkpoint::Source::folder(path.as_ref()).unwrap();
            let architecture = Architecture::parse(&source.config().unwrap()).unwrap();
            let (mut files, mut modules) = (source.weights().unwrap(), StateDict::of(folder));
            // Of the encoder alone, without the first part of the names.
            let short = modules.0.iter().map(|(name, tensor)| {
                let name = name
                    .split_once('.')
                    .filter(|(first, _)| !["cls", "lm_head"].contains(first));
                name.map(|(_, name)| (name.to_owned(), tensor.clone()))
            });
            let mut short = StateDict(short.flatten().collect());
            assert!(
                modules
                    .0
                    .keys()
                    .any(|name| name.ends_with(".layers.1.self_attn.v_proj.weight"))
            );
            for parameter in architecture.spec.parameters() {
                let expected = architecture.read(parameter, &mut files).unwrap();
                assert_eq!(
                    architecture.read(parameter, &mut modules).unwrap(),
                    expected,
                    "{folder} {parameter:?}"
                );
                if !parameter.is_of_head() {
                    assert_eq!(
                        architecture.read(parameter, &mut short).unwrap(),
                        expected,
                        "{folder} {parameter:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn sizes_that_do_not_fit_together_are_refused() {
        let albert = r#"{"model_type": "albert", "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1000,
            "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_groups": 1000, "inner_group_num": 1000}"#;
        let groups = albert.replace("_layers\": 1000", "_layers\": 999");
        let modernbert = r#"{"model_type": "modernbert", "vocab_size": 9, "hidden_size": 9, "num_hidden_layers": 1,
            "num_attention_heads": 3, "intermediate_size": 16}"#;
        let long = modernbert.replace(
            "\"hidden_size\": 9",
            "\"hidden_size\": 6, \"max_position_embeddings\": 9999999",
        );
        let mpnet = r#"{"model_type": "mpnet", "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 16, "relative_attention_num_buckets": 512}"#;
        for (config, named) in [
            (albert, "inner_group_num (1000) times num_hidden_layers (1000)"),
            (
                &groups,
                "num_hidden_groups (1000) must not exceed num_hidden_layers (999)",
            ),
            (modernbert, "heads have 3 columns"),
            (&long, "max_position_embeddings is 9999999"),
            (mpnet, "relative_attention_num_buckets is 512"),
        ] {
            // Without the architecture, whose list of layers may be long.
            let error = Architecture::parse(config.as_bytes())
                .map(drop)
                .unwrap_err()
                .to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn one_error_names_every_field_that_is_refused() {
        let config = r#"{"model_type": "bert", "hidden_size": "wide", "num_hidden_layers": 9999, "hidden_act": "prelu",
            "num_attention_heads": 7, "intermediate_size": 0, "type_vocab_size": 2.5, "is_decoder": true}"#;
        let error = Architecture::parse(config.as_bytes()).map(drop).unwrap_err();
        let begin = |reason: &String| reason.split(';').next().unwrap().to_owned();
        assert_eq!(
            error.0.iter().map(begin).collect::<Vec<_>>(),
            [
                "type_vocab_size is 2.5",
                "is_decoder is true",
                "hidden_size is \"wide\", an invalid type: it must be a whole number",
                "num_hidden_layers is 9999",
                "hidden_act is \"prelu\"",
                "missing field `vocab_size`",
                "intermediate_size is 0",
            ],
            "the heads are valid for some hidden_size"
        );
        assert_eq!(error.to_string(), error.0.join(". "));
    }

    /// Fields whose value decides which others are read, by model type.
    const DECIDING: [(&str, &str); 3] = [
        ("esm", "position_embedding_type"),
        ("esm", "token_dropout"),
        ("ernie", "use_task_id"),
    ];

    #[test]
    fn every_family_names_all_of_its_fields() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/golden");
        let folders = std::fs::read_dir(golden).unwrap().map(|entry| entry.unwrap().path());
        for folder in folders.filter(|path| path.is_dir()) {
            let config = std::fs::read(folder.join("config.json")).unwrap();
            let config: serde_json::Map<String, serde_json::Value> = crate::checkpoint::json::parse(&config).unwrap();
            let reasons = |names: &[&String]| {
                let mut config = config.clone();
                for &name in names {
                    config[name] = serde_json::json!({"wrong": "type"});
                }
                let config = serde_json::Value::Object(config).to_string();
                Architecture::parse(config.as_bytes())
                    .map(drop)
                    .map_err(|error| error.0)
            };
            let is_fixed = |name: &str| {
                let model_type = config["model_type"].as_str().unwrap();
                name == "model_type" || DECIDING.contains(&(model_type, name))
            };
            let names = config.keys().filter(|name| !is_fixed(name));
            let read: Vec<_> = names.filter_map(|name| Some((name, reasons(&[name]).err()?))).collect();
            assert!(read.len() > 5, "{read:?}");
            let all = reasons(&read.iter().map(|(name, _)| *name).collect::<Vec<_>>()).unwrap_err();
            for (name, alone) in read {
                assert_eq!(alone.len(), 1, "{name}: {alone:?}");
                assert!(all.contains(&alone[0]), "{}: {name}: {all:?}", folder.display());
            }
        }
    }

    #[test]
    fn an_unknown_model_type_is_refused_with_the_known_ones() {
        for (config, named) in [
            (r#"{"model_type": "bart"}"#, "bart"),
            (r#"{"model_type": "gpt2"}"#, "gpt2"),
            (r#"{"model_type": "xlm", "emb_dim": 16, "init": NaN}"#, "xlm"),
            (r#"{"dim": 16, "vocab_size": "x", "model_type": "funnel"}"#, "funnel"),
        ] {
            let error = Architecture::parse(config.as_bytes()).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("model_type is \"{named}\"; supported: bert")),
                "{error}"
            );
        }
    }
}
