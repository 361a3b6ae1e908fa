//! `cloze inspect`: what is in a checkpoint, whether it fits, and what would be refused.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use cloze::checkpoint::inspect::{Architecture, Inspection, WeightsSummary};
use cloze::sys::memory;
use serde::Serialize;

use super::model::locate;
use super::print;

/// `cloze inspect`.
#[derive(Debug, Args)]
pub struct InspectArguments {
    /// Folder, or name of a model on the hub [default: the embedded demo model]
    #[arg(value_name = "DIR|NAME")]
    model: Option<PathBuf>,

    /// Branch, tag or commit of a model on the hub [default: main]
    #[arg(long, value_name = "REVISION", requires = "model")]
    revision: Option<String>,

    /// Everything as one JSON object
    #[arg(long)]
    json: bool,

    /// Every tensor with its type and shape
    #[arg(long)]
    tensors: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    inspection: Inspection,
    memory: Memory,
}

/// In bytes; absent where it is not known.
#[derive(Serialize)]
struct Memory {
    /// The weights as f32.
    needed: Option<u64>,
    available: Option<u64>,
    fits: Option<bool>,
}

/// Prints the inspection. A model that would be refused is a failure.
pub fn run(arguments: &InspectArguments) -> Result<ExitCode, Box<dyn Error>> {
    let source = locate(arguments.model.as_deref(), arguments.revision.as_deref())?;
    let inspection = Inspection::of(source);
    let needed = inspection.architecture.as_ref().map(|of| of.weights_bytes as u64);
    let available = memory::available();
    let report = Report {
        memory: Memory {
            needed,
            available,
            fits: needed.zip(available).map(|(needed, available)| needed <= available),
        },
        inspection,
    };
    match arguments.json {
        true => print(&[serde_json::to_string_pretty(&report)?])?,
        false => print(&describe(&report, arguments.tensors))?,
    }
    Ok(match report.inspection.refusals.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn describe(report: &Report, with_tensors: bool) -> Vec<String> {
    let inspection = &report.inspection;
    let mut lines = vec![inspection.name.clone()];
    if let Some(architecture) = &inspection.architecture {
        describe_architecture(architecture, &mut lines);
    }
    if let Some(tokenizer) = &inspection.tokenizer {
        let (tokens, mask, id) = (tokenizer.tokens, &tokenizer.mask_token, tokenizer.mask_id);
        lines.push(format!(
            "  tokenizer     {}: {tokens} tokens, mask {mask} ({id})",
            tokenizer.file
        ));
    }
    if let Some(weights) = &inspection.weights {
        describe_weights(weights, with_tensors, &mut lines);
    }
    let memory = &report.memory;
    if let (Some(needed), Some(available)) = (memory.needed, memory.available) {
        let verdict = if needed <= available {
            "it fits"
        } else {
            "it does not fit"
        };
        lines.push(format!(
            "  memory        {} for the weights as f32, {} available: {verdict}",
            mebibytes(needed),
            mebibytes(available)
        ));
    }
    match inspection.refusals.as_slice() {
        [] => lines.push("  verdict       Cloze serves it".to_owned()),
        refusals => {
            lines.push("  verdict       Cloze refuses it:".to_owned());
            lines.extend(refusals.iter().map(|refusal| format!("    {refusal}")));
        }
    }
    lines
}

fn describe_architecture(of: &Architecture, lines: &mut Vec<String>) {
    lines.push(format!(
        "  architecture  BERT of {} layers, {} wide, {} heads, feed-forward {} with {}",
        of.layers, of.hidden_size, of.heads, of.intermediate_size, of.activation
    ));
    let decoder = if of.tied { "the word embeddings" } else { "its own" };
    lines.push(format!(
        "  sizes         vocabulary of {}, texts up to {} tokens, {} parameters, decoder {decoder}",
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
    let ignored: Vec<&str> = weights
        .tensors
        .iter()
        .filter(|tensor| !tensor.used)
        .map(|tensor| tensor.name.as_str())
        .collect();
    if !ignored.is_empty() {
        lines.push(format!("  not needed    {}", ignored.join(", ")));
    }
    for tensor in weights.tensors.iter().filter(|_| with_tensors) {
        lines.push(format!("    {:5} {:?} {}", tensor.dtype, tensor.shape, tensor.name));
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20))
}
