//! Fills a mask on a backend of its own: plain Burn in f64, through the default bodies of `EncoderBackend`.
//!
//! ```sh
//! cargo run --example custom_backend
//! ```
//!
//! A backend needs a dense layer, its form of the index inputs, and an upload; it overrides the operations that it
//! has kernels for. `cloze::backend::reference` shows the least that it takes.

use std::error::Error;

use cloze::Cloze;
use cloze::backend::Precision;
use cloze::backend::reference::Reference;
use cloze::lm::{LoadedModel, PretrainedModel};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut model = PretrainedModel::embedded()?;
    let worker = model.load_on::<Reference>(&Default::default(), Precision::F32)?;
    let loaded = LoadedModel::custom("plain Burn", Precision::F32, vec![Box::new(worker)]);
    let cloze = Cloze::builder().start(model, loaded)?;
    let answer = cloze.fill_mask("Paris is the [MASK] of France.").await?;
    for prediction in &answer[0] {
        println!("{:5.1} %  {}", 100.0 * prediction.score, prediction.sequence);
    }
    Ok(())
}
