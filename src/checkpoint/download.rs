//! Downloads of checkpoints: the files of a hub model that Cloze needs, in the order in which they are checked.

use std::path::PathBuf;

use super::error::Part;
use super::files::Files;
use super::names::{
    ADDED_TOKENS, CONFIG, OTHER_WEIGHTS, SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG, VOCABULARIES, WEIGHTS, WEIGHTS_INDEX,
};
use super::{CheckpointError, ConfigCheck, weights};
use crate::hub::{CachedModel, Hub, ModelName, Progress, RemoteModel};

/// Files that not every model has, and that change the tokenizer of those that have them.
const OPTIONAL: [&str; 3] = [TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, ADDED_TOKENS];

/// Returns the model's folder in the cache, after the download of the files that it lacks. A complete folder is used
/// without network access.
///
/// # Errors
/// [`CheckpointError::Hub`] if a download fails; the error of `check` for `config.json`, before the weights are
/// downloaded.
pub fn download(
    hub: &Hub,
    name: &ModelName,
    progress: &mut dyn Progress,
    check: ConfigCheck<'_>,
) -> Result<PathBuf, CheckpointError> {
    if let Some(cached) = hub.cached(name) {
        let files = Files::Folder(cached.folder());
        if is_complete(&files) {
            let unknown = |file: &&str| !files.has(file) && !cached.is_absent(file);
            if OPTIONAL.iter().any(unknown) {
                fetch_optional(hub, &cached, progress);
            }
            return Ok(cached.folder());
        }
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
    for file in OPTIONAL {
        match model.has(file) {
            true => fetch(file)?,
            false => model.record_absent(file)?,
        }
    }
    let vocabulary = vocabulary(|file| model.has(file));
    for file in vocabulary.ok_or_else(|| missing(Part::Tokenizer))? {
        fetch(file)?;
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

/// Downloads the optional files of a cached model. Another tool may have cached the model without them. If the hub
/// cannot be reached, the model is used as it is.
fn fetch_optional(hub: &Hub, cached: &CachedModel, progress: &mut dyn Progress) {
    let name = cached.name();
    let fetched = hub.resolve(&name).and_then(|model| {
        for file in OPTIONAL {
            match model.has(file) {
                true => model.fetch(file, progress)?,
                false => model.record_absent(file)?,
            }
        }
        Ok(())
    });
    if let Err(error) = fetched {
        tracing::warn!(
            "{name} is used from the cache; the hub may have more files of its tokenizer ({}): {error}",
            OPTIONAL.join(", ")
        );
    }
}

fn missing(model: &RemoteModel<'_>, name: &ModelName, part: Part) -> CheckpointError {
    CheckpointError::Missing {
        part,
        location: format!("{name} on the hub"),
        other_weights: OTHER_WEIGHTS.into_iter().find(|file| model.has(file)),
    }
}

/// The files of the tokenizer, if a model has them.
fn vocabulary(has: impl Fn(&str) -> bool) -> Option<&'static [&'static str]> {
    let mut all = VOCABULARIES.into_iter();
    all.find(|files| files.iter().all(|file| has(file)))
}

/// True if a configuration, a tokenizer and all weight files are present.
fn is_complete(files: &Files) -> bool {
    let has_shards = || weights::shards(files).is_ok_and(|shards| shards.iter().all(|shard| files.has(shard)));
    files.has(CONFIG)
        && vocabulary(|file| files.has(file)).is_some()
        && (files.has(WEIGHTS) || (files.has(WEIGHTS_INDEX) && has_shards()))
}
