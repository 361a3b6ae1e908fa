//! Cloze's side of `gpu/side_by_side.py` and `cpu/side_by_side.py`: passes of one checkpoint, timed on
//! request.
//!
//! Arguments are a model's folder, `gpu` or `cpu`, and optionally `--gpu-device` and `--dtype` as the server
//! takes them. A request is a line of JSON on standard input, `{"texts": [[ids]], "masks": [[positions]], "rounds":
//! n}`; its answer is one on standard output, with the seconds of each round and the likeliest token of each mask.

use std::error::Error;
use std::io::{BufRead, Write};
use std::time::Instant;

use cloze::backend::Precision;
use cloze::lm::{BackendKind, Batch, DeviceInfo, Placement, PretrainedModel, Select, Sequence};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Request {
    texts: Vec<Vec<u32>>,
    masks: Vec<Vec<usize>>,
    rounds: usize,
}

#[derive(Serialize)]
struct Ready {
    device: String,
    dtype: String,
    warning: Option<String>,
}

#[derive(Serialize)]
struct Answer {
    seconds: Vec<f64>,
    tokens: Vec<u32>,
    scores: Vec<f32>,
}

/// The default of transformers' pipeline.
const TOP_K: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let [folder, backend, rest @ ..] = &arguments[..] else {
        println!(
            "one side of benches/gpu/run and benches/cpu/side_by_side.py, which see; there is nothing to measure here"
        );
        return Ok(());
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let backend = match backend.as_str() {
        "gpu" => BackendKind::Gpu,
        "cpu" => BackendKind::Cpu,
        other => return Err(format!("{other} is neither gpu nor cpu").into()),
    };
    let mut placement = Placement::new(backend, threads);
    for pair in rest.chunks(2) {
        match pair {
            [flag, device] if flag == "--gpu-device" => placement.gpu_device = Some(device.clone()),
            [flag, name] if flag == "--dtype" => placement.precision = Some(name.parse::<Precision>()?),
            other => return Err(format!("{other:?} is no flag").into()),
        }
    }
    let mut loaded = PretrainedModel::open(folder.as_ref())?.load(&placement)?;
    say(&Ready {
        device: loaded.device.to_string(),
        dtype: loaded.precision.to_string(),
        warning: matches!(loaded.device, DeviceInfo::Gpu { is_software: true, .. })
            .then(|| "a software adapter".to_owned()),
    })?;
    let model = &mut loaded.workers[0];
    for line in std::io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line?)?;
        let mut batch = Batch::default();
        for (ids, masks) in request.texts.iter().zip(&request.masks) {
            batch.push(&Sequence::new(ids.as_slice(), masks.as_slice(), Select::TopK(TOP_K)));
        }
        let mut answer = Answer {
            seconds: Vec::new(),
            tokens: Vec::new(),
            scores: Vec::new(),
        };
        for _ in 0..request.rounds {
            let batch = batch.clone();
            let started_at = Instant::now();
            let scores = model.predict(batch)?;
            answer.seconds.push(started_at.elapsed().as_secs_f64());
            let best = || scores.iter().flatten().map(|tokens| tokens[0]);
            answer.tokens = best().map(|score| score.token).collect();
            answer.scores = best().map(|score| score.probability()).collect();
        }
        say(&answer)?;
    }
    Ok(())
}

fn say(answer: &impl Serialize) -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, answer)?;
    writeln!(out)?;
    Ok(out.flush()?)
}
