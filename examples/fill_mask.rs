//! Fills the masks of a text with the demo model, or with a model folder.
//!
//! ```sh
//! cargo run --example fill_mask -- "Paris is the [MASK] of France."
//! cargo run --example fill_mask -- "Paris is the [MASK] of France." path/to/bert-base-uncased
//! ```

use std::error::Error;

use cloze::Cloze;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let text = arguments.next().unwrap_or("Paris is the [MASK] of France.".to_owned());
    let cloze = match arguments.next() {
        Some(folder) => Cloze::open(folder)?,
        None => Cloze::demo()?,
    };
    for (mask, predictions) in cloze.fill_mask(&text).await?.iter().enumerate() {
        println!("mask {}:", mask + 1);
        for prediction in predictions {
            println!("  {:5.1} %  {}", 100.0 * prediction.score, prediction.sequence);
        }
    }
    Ok(())
}
