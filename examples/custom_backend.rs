//! Fills a mask on a backend of its own: plain Burn in f64, through the default bodies of `EncoderBackend`.
//!
//! ```sh
//! cargo run --example custom_backend
//! ```
//!
//! A backend needs a dense layer, its form of the index inputs, and an upload; it overrides the operations that it
//! has kernels for. `cloze::backend::reference` shows the least that it takes.

use std::error::Error;
use std::sync::Arc;

use cloze::backend::Precision;
use cloze::backend::reference::Reference;
use cloze::engine::{Engine, Limits};
use cloze::lm::PretrainedModel;
use cloze::pipeline::{Deadline, Pipeline};
use cloze::tasks::fill_mask::{FillMask, Parameters, Request};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut model = PretrainedModel::embedded()?;
    let worker = model.load_on::<Reference>(&Default::default(), Precision::F32)?;
    let engine = Engine::start(vec![Box::new(worker)], Limits::default())?;
    let task = FillMask::new(model.tokenizer, &model.info, model.info.max_tokens);
    let pipeline = Arc::new(Pipeline::start(task, engine)?);
    let request = Request {
        texts: vec!["Paris is the [MASK] of France.".to_owned()],
        parameters: Parameters::default(),
    };
    let admission = pipeline.admit()?;
    let scored = pipeline.run(admission, request, Deadline::never()).await?;
    let answered = pipeline.decode(scored, Deadline::never()).await?;
    for prediction in &answered.texts[0][0] {
        println!("{:5.1} %  {}", 100.0 * prediction.score, prediction.sequence);
    }
    Ok(())
}
