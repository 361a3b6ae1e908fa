//! `cloze inspect`: the contents of a checkpoint, its memory needs, and every error in it.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueHint};
use cloze::lm::inspect::{ArchitectureSummary, Inspection, StoredTensor, TokenizerSummary, WeightsSummary};
use cloze::sys::memory;
use serde::Serialize;

use super::advice;
use super::model::{check_revision, locate};
use super::print;

/// `cloze inspect`.
#[derive(Debug, Args)]
pub struct InspectArguments {
    /// Folder, or name of a model on the hub [default: the embedded demo model]
    #[arg(env = "CLOZE_MODEL", value_name = "DIR|NAME", value_hint = ValueHint::AnyPath)]
    model: Option<PathBuf>,

    /// Branch, tag or commit of a model on the hub [default: main]
    #[arg(long, env = "CLOZE_REVISION", value_name = "REVISION")]
    revision: Option<String>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    /// List each tensor with its type and shape
    #[arg(long)]
    tensors: bool,
}

impl InspectArguments {
    /// Checks flags that need each other.
    ///
    /// # Errors
    /// A revision without a model.
    pub fn check(&self) -> Result<(), String> {
        check_revision(self.model.as_deref(), self.revision.as_deref())
    }
}

/// Errors of the same kind in a description: the files of another model have one for each tensor.
const ALIKE_ERRORS_MAX: usize = 5;

/// Prints the inspection. Returns failure for a model with errors.
pub fn run(arguments: &InspectArguments) -> Result<ExitCode, Box<dyn Error>> {
    let source = locate(arguments.model.as_deref(), arguments.revision.as_deref())?;
    let inspection = Inspection::of(source);
    let memory = Memory::of(&inspection);
    match arguments.json {
        true => print(&[serde_json::to_string_pretty(&Report::new(&inspection, memory))?])?,
        false => print(&describe(&inspection, &memory, arguments.tensors))?,
    }
    Ok(match inspection.errors.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Memory in bytes on the CPU in f32; `None` if unknown.
#[derive(Clone, Copy, Serialize)]
struct Memory {
    /// Bytes of the loaded weights.
    weights: Option<u64>,
    /// At the peak: the weights, and a tensor that is being packed or the logits of a batch.
    needed: Option<u64>,
    available: Option<u64>,
    fits: Option<bool>,
}

impl Memory {
    fn of(inspection: &Inspection) -> Self {
        let needed = inspection.memory.map(|need| need.peak);
        let available = memory::available().map(|available| available.bytes);
        Self {
            weights: inspection.memory.map(|need| need.weights),
            needed,
            available,
            fits: needed.zip(available).map(|(needed, available)| needed <= available),
        }
    }
}

fn describe(inspection: &Inspection, memory: &Memory, with_tensors: bool) -> Vec<String> {
    let mut lines = vec![inspection.name.clone()];
    if let Some(architecture) = &inspection.architecture {
        describe_architecture(architecture, &mut lines);
    }
    if let Some(tokenizer) = &inspection.tokenizer {
        let (tokens, mask, id) = (tokenizer.tokens, &tokenizer.mask_token, tokenizer.mask_id);
        lines.push(format!(
            "  tokenizer     {}: {tokens} tokens, mask {mask} (id {id})",
            tokenizer.file
        ));
    }
    if let Some(weights) = &inspection.weights {
        describe_weights(weights, with_tensors, &mut lines);
    }
    if let (Some(weights), Some(needed), Some(available)) = (memory.weights, memory.needed, memory.available) {
        let verdict = if needed <= available { "fits" } else { "does not fit" };
        lines.push(format!(
            "  memory        {} for the weights in f32, {} at the peak, {} available: {verdict}",
            size(weights),
            size(needed),
            size(available)
        ));
    }
    let warnings = inspection.warnings.iter();
    lines.extend(warnings.map(|warning| format!("  warning       {warning}")));
    match inspection.errors.as_slice() {
        [] => lines.push("  verdict       Cloze serves it".to_owned()),
        errors => {
            lines.push("  verdict       Cloze refuses it:".to_owned());
            let errors: Vec<String> = errors.iter().map(|error| advice::message(error)).collect();
            describe_errors(&errors, &mut lines);
        }
    }
    lines
}

/// The errors; of many alike the first ones and their number.
fn describe_errors(errors: &[String], lines: &mut Vec<String>) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for kind in errors.iter().filter_map(|error| kind_of_tensor_error(error)) {
        *counts.entry(kind).or_default() += 1;
    }
    let mut shown: BTreeMap<&str, usize> = BTreeMap::new();
    for error in errors {
        let Some(kind) = kind_of_tensor_error(error) else {
            lines.push(format!("    {error}"));
            continue;
        };
        let (shown, all) = (shown.entry(kind).or_default(), counts[kind]);
        *shown += 1;
        // A line for one more would be as long as that error.
        if *shown <= ALIKE_ERRORS_MAX || all == ALIKE_ERRORS_MAX + 1 {
            lines.push(format!("    {error}"));
        } else if *shown == ALIKE_ERRORS_MAX + 1 {
            let more = all - ALIKE_ERRORS_MAX;
            lines.push(format!("    and {more} more tensors with this error; --json lists all"));
        }
    }
}

/// The two words after the name of the tensor, such as `is missing` and `has shape`, if the error is about one.
fn kind_of_tensor_error(error: &str) -> Option<&str> {
    let (before, rest) = error.split_once("tensor ")?;
    if !before.is_empty() && !before.ends_with(": ") {
        return None;
    }
    let (_, rest) = rest.split_once(' ')?;
    let end = rest.match_indices(' ').nth(1).map_or(rest.len(), |(at, _)| at);
    Some(&rest[..end])
}

fn describe_architecture(of: &ArchitectureSummary, lines: &mut Vec<String>) {
    lines.push(format!(
        "  architecture  {}, {} layers, hidden size {}, {} heads, feed-forward size {}, activation {}",
        of.family, of.layers, of.hidden_size, of.heads, of.intermediate_size, of.activation
    ));
    let decoder = match (of.tied, of.decoder_bias) {
        (true, true) => "tied to the embeddings",
        (true, false) => "tied to the embeddings, without a bias",
        (false, true) => "untied",
        (false, false) => "untied, without a bias",
    };
    lines.push(format!(
        "  sizes         vocabulary size {}, texts up to {} tokens, {} parameters, decoder {decoder}",
        of.vocab_size, of.max_tokens, of.parameters
    ));
}

fn describe_weights(weights: &WeightsSummary, with_tensors: bool, lines: &mut Vec<String>) {
    let mut types: BTreeMap<&str, usize> = BTreeMap::new();
    for tensor in &weights.tensors {
        *types.entry(&tensor.dtype).or_default() += 1;
    }
    let types: Vec<String> = types
        .iter()
        .map(|(dtype, count)| format!("{count} of {dtype}"))
        .collect();
    for file in &weights.files {
        lines.push(format!("  weights       {file}"));
    }
    lines.push(format!("  tensors       {}", types.join(", ")));
    let unused: Vec<&str> = weights
        .tensors
        .iter()
        .filter(|tensor| tensor.used == Some(false))
        .map(|tensor| tensor.name.as_str())
        .collect();
    if !unused.is_empty() {
        lines.push(format!("  unused        {}", unused.join(", ")));
    }
    for tensor in weights.tensors.iter().filter(|_| with_tensors) {
        lines.push(format!("    {:5} {:?} {}", tensor.dtype, tensor.shape, tensor.name));
    }
}

/// In MiB, or in KiB if that is less than ten.
fn size(bytes: u64) -> String {
    match bytes >> 20 {
        0..10 => format!("{} KiB", bytes.div_ceil(1 << 10)),
        _ => format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20)),
    }
}

/// The output of `--json`.
#[derive(Serialize)]
struct Report<'a> {
    name: &'a str,
    architecture: Option<ArchitectureReport>,
    tokenizer: Option<TokenizerReport<'a>>,
    weights: Option<WeightsReport<'a>>,
    warnings: Vec<String>,
    refusals: Vec<String>,
    memory: Memory,
}

#[derive(Serialize)]
struct ArchitectureReport {
    family: &'static str,
    layers: usize,
    hidden_size: usize,
    heads: usize,
    intermediate_size: usize,
    activation: &'static str,
    vocab_size: usize,
    max_tokens: usize,
    parameters: usize,
    weights_bytes: usize,
    tied: bool,
    decoder_bias: bool,
}

#[derive(Serialize)]
struct TokenizerReport<'a> {
    file: &'a str,
    tokens: usize,
    mask_token: &'a str,
    mask_id: u32,
}

#[derive(Serialize)]
struct WeightsReport<'a> {
    files: &'a [String],
    tensors: Vec<TensorReport<'a>>,
}

#[derive(Serialize)]
struct TensorReport<'a> {
    name: &'a str,
    dtype: &'a str,
    shape: &'a [usize],
    used: Option<bool>,
}

impl<'a> Report<'a> {
    fn new(inspection: &'a Inspection, memory: Memory) -> Self {
        Self {
            name: &inspection.name,
            architecture: inspection.architecture.as_ref().map(ArchitectureReport::new),
            tokenizer: inspection.tokenizer.as_ref().map(TokenizerReport::new),
            weights: inspection.weights.as_ref().map(WeightsReport::new),
            warnings: inspection.warnings.iter().map(ToString::to_string).collect(),
            refusals: inspection.errors.iter().map(|error| advice::message(error)).collect(),
            memory,
        }
    }
}

impl ArchitectureReport {
    fn new(of: &ArchitectureSummary) -> Self {
        Self {
            family: of.family,
            layers: of.layers,
            hidden_size: of.hidden_size,
            heads: of.heads,
            intermediate_size: of.intermediate_size,
            activation: of.activation,
            vocab_size: of.vocab_size,
            max_tokens: of.max_tokens,
            parameters: of.parameters,
            weights_bytes: of.weights_bytes,
            tied: of.tied,
            decoder_bias: of.decoder_bias,
        }
    }
}

impl<'a> TokenizerReport<'a> {
    fn new(of: &'a TokenizerSummary) -> Self {
        Self {
            file: &of.file,
            tokens: of.tokens,
            mask_token: &of.mask_token,
            mask_id: of.mask_id,
        }
    }
}

impl<'a> WeightsReport<'a> {
    fn new(of: &'a WeightsSummary) -> Self {
        Self {
            files: &of.files,
            tensors: of.tensors.iter().map(TensorReport::new).collect(),
        }
    }
}

impl<'a> TensorReport<'a> {
    fn new(of: &'a StoredTensor) -> Self {
        Self {
            name: &of.name,
            dtype: &of.dtype,
            shape: &of.shape,
            used: of.used,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_errors_of_a_kind_are_counted() {
        let missing = (0..70).map(|n| format!("tensor a.{n} is missing from model.safetensors"));
        let shapes =
            (0..6).map(|n| format!("m.safetensors: tensor b.{n} has shape [2, 2], but config.json asks for [2]"));
        let other = "m/config.json: hidden_act is \"x\"".to_owned();
        let errors: Vec<String> = missing.chain(shapes).chain([other.clone()]).collect();
        let mut lines = Vec::new();
        describe_errors(&errors, &mut lines);
        let lines: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
        assert_eq!(lines.len(), 5 + 1 + 6 + 1, "{lines:?}");
        assert_eq!(lines[5], "and 65 more tensors with this error; --json lists all");
        assert_eq!((lines[4], lines[6]), (errors[4].as_str(), errors[70].as_str()));
        assert_eq!(lines[12], other);
    }
}
