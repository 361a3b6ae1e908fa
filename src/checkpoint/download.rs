//! Downloads of checkpoints: the files of a hub model that Cloze needs, in the order in which they are checked.

use std::path::PathBuf;

use super::error::Part;
use super::files::{CONFIG, Files, TOKENIZER, TOKENIZER_CONFIG, VOCAB, WEIGHTS, WEIGHTS_INDEX};
use super::{CheckpointError, ConfigCheck, weights};
use crate::hub::{Hub, ModelName, Progress, RemoteModel};

/// Returns the model's folder in the cache, after the download of the files that it lacks. A complete folder is used
/// without network access.
///
/// # Errors
/// [`CheckpointError::Hub`] if a download fails; the error of `check` for `config.json`, before the weights are downloaded.
pub fn download(
    hub: &Hub,
    name: &ModelName,
    progress: &mut dyn Progress,
    check: ConfigCheck<'_>,
) -> Result<PathBuf, CheckpointError> {
    if let Some(folder) = hub.cached(name)
        && is_complete(&Files::Folder(folder.clone()))
    {
        return Ok(folder);
    }
    let model = hub.resolve(name)?;
    let files = Files::Folder(model.folder());
    let mut fetch = |file: &str| model.fetch(file, progress);
    let missing = |part| missing(&model, name, part);
    if !model.has(CONFIG) {
        return Err(missing(Part::Config));
    }
    fetch(CONFIG)?;
    check(&files.read(CONFIG)?)?;
    if model.has(TOKENIZER_CONFIG) {
        fetch(TOKENIZER_CONFIG)?;
    }
    match (model.has(TOKENIZER), model.has(VOCAB)) {
        (true, _) => fetch(TOKENIZER)?,
        (false, true) => fetch(VOCAB)?,
        (false, false) => return Err(missing(Part::Tokenizer)),
    }
    match (model.has(WEIGHTS), model.has(WEIGHTS_INDEX)) {
        (true, _) => fetch(WEIGHTS)?,
        (false, true) => {
            fetch(WEIGHTS_INDEX)?;
            for shard in weights::shards(&files)? {
                fetch(&shard)?;
            }
        }
        (false, false) => return Err(missing(Part::Weights)),
    }
    // Last: an interrupted download must not be taken for a complete model.
    Ok(model.finish()?)
}

fn missing(model: &RemoteModel<'_>, name: &ModelName, part: Part) -> CheckpointError {
    CheckpointError::Missing {
        part,
        location: format!("{name} on the hub"),
        other_weights: weights::OTHER_WEIGHTS.into_iter().find(|file| model.has(file)),
    }
}

/// True if a configuration, a tokenizer and all weight files are present.
fn is_complete(files: &Files) -> bool {
    let has_shards = || weights::shards(files).is_ok_and(|shards| shards.iter().all(|shard| files.has(shard)));
    files.has(CONFIG)
        && (files.has(TOKENIZER) || files.has(VOCAB))
        && (files.has(WEIGHTS) || (files.has(WEIGHTS_INDEX) && has_shards()))
}
