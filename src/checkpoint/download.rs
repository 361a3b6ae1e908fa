//! Downloads of checkpoints: the files of a hub model that Cloze needs, in the order in which they are checked.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;

use super::error::Part;
use super::files::{Files, TEXT_FILE_BYTES_MAX, is_web_page};
use super::json;
use super::names::{
    ADDED_TOKENS, CONFIG, OTHER_WEIGHTS, SPARSE_POOLING, SPECIAL_TOKENS_MAP, TOKENIZER, TOKENIZER_CONFIG,
    TOKENIZER_SOURCES,
};
use super::{CheckpointError, ConfigCheck, WeightFiles, tokenizer, weights};
use crate::hub::{CachedModel, Expected, Hub, HubError, ModelName, Progress, RemoteModel};

/// Files that not every model has, and that change the tokenizer of those that have them.
const OPTIONAL: [&str; 4] = [TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, ADDED_TOKENS, TOKENIZER];

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
        if is_complete(&files) && is_valid(&files, &cached) {
            let unknown = |file: &&str| !files.has(file) && !cached.is_absent(file);
            if OPTIONAL.iter().any(unknown) {
                fetch_optional(hub, &cached, progress);
            }
            check_pytorch(&files).map_err(|error| with_conversion(hub, name, error))?;
            return Ok(cached.folder());
        }
    }
    let model = hub.resolve(name)?;
    let files = Files::Folder(model.folder());
    let mut fetch = |file: &str| fetch(&model, file, progress);
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
    if model.has(SPARSE_POOLING) {
        fetch(SPARSE_POOLING)?;
    }
    let sources = tokenizer::sources(&files, |file| model.has(file))?;
    for file in sources.ok_or_else(|| missing(tokenizer::missing(&files)))? {
        fetch(file)?;
    }
    let is_there = |(single, index): &(&str, &str)| model.has(single) || model.has(index);
    let format = weights::FORMATS.into_iter().find(is_there);
    let (single, index) = format.ok_or_else(|| with_conversion(hub, name, missing(Part::Weights)))?;
    match model.has(single) {
        true => fetch(single)?,
        false => {
            fetch(index)?;
            for shard in weights::shards(&files, index)? {
                fetch(&shard)?;
            }
        }
    }
    check_pytorch(&files).map_err(|error| with_conversion(hub, name, error))?;
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
                true => fetch(&model, file, progress)?,
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

/// Checks that PyTorch's files, if they are the weights, hold tensors and nothing else.
fn check_pytorch(files: &Files) -> Result<(), CheckpointError> {
    let (single, index) = weights::FORMATS[0];
    match files.has(single) || files.has(index) {
        true => Ok(()),
        false => WeightFiles::open(files).map(drop),
    }
}

/// Adds the revision with a conversion of the weights, if the hub has one.
fn with_conversion(hub: &Hub, name: &ModelName, error: CheckpointError) -> CheckpointError {
    match hub.conversion(name) {
        Some(revision) => CheckpointError::Converted {
            error: Box::new(error),
            revision,
        },
        None => error,
    }
}

fn fetch(model: &RemoteModel<'_>, file: &str, progress: &mut dyn Progress) -> Result<(), HubError> {
    let check = |path: &Path| check_form(file, path);
    let expected = Expected {
        bytes_max: is_text(file).then_some(TEXT_FILE_BYTES_MAX),
        check: &check,
    };
    model.fetch(file, expected, progress)
}

fn is_text(file: &str) -> bool {
    file.ends_with(".json") || file.ends_with(".txt")
}

/// Checks that the file at `path` has the form of the checkpoint's `file`: a proxy may answer every request with its
/// login page.
fn check_form(file: &str, path: &Path) -> Result<(), String> {
    let mut content = File::open(path).map_err(|error| error.to_string())?;
    let bytes = content.metadata().map_err(|error| error.to_string())?.len();
    let mut beginning = Vec::new();
    let read = content.by_ref().take(BEGINNING_BYTES).read_to_end(&mut beginning);
    read.map_err(|error| error.to_string())?;
    if is_web_page(&beginning) {
        return Err("it is a web page".to_owned());
    }
    if file.ends_with(".json") && bytes <= TEXT_FILE_BYTES_MAX {
        let rest = content.read_to_end(&mut beginning);
        rest.map_err(|error| error.to_string())?;
        return json::parse::<IgnoredAny>(&beginning)
            .map(drop)
            .map_err(|error| error.to_string());
    }
    if file.ends_with(".safetensors") {
        let length = beginning.first_chunk().map(|&length| u64::from_le_bytes(length));
        return match length.is_some_and(|length| length <= bytes.saturating_sub(8)) && beginning.get(8) == Some(&b'{') {
            true => Ok(()),
            false => Err("it is not a safetensors file".to_owned()),
        };
    }
    // A zip archive or a pickle.
    if file.ends_with(".bin") && !beginning.starts_with(b"PK\x03\x04") && !beginning.starts_with(b"\x80") {
        return Err("it is not a file of PyTorch".to_owned());
    }
    Ok(())
}

/// Bytes that show if a file is a web page.
const BEGINNING_BYTES: u64 = 1024;

/// True if the files of a cached model have the form of their kind. An earlier download may have stored something else.
fn is_valid(files: &Files, cached: &CachedModel) -> bool {
    let mut names = vec![CONFIG];
    names.extend(weights::FORMATS.into_iter().flat_map(|(single, index)| [single, index]));
    names.extend(OPTIONAL);
    names.extend(TOKENIZER_SOURCES);
    let present = names.into_iter().filter(|file| files.has(file));
    present.into_iter().all(|file| {
        let path = cached.folder().join(file);
        let checked = check_form(file, &path);
        if let Err(reason) = &checked {
            tracing::warn!("{} is not valid: {reason}", path.display());
        }
        checked.is_ok()
    })
}

fn missing(model: &RemoteModel<'_>, name: &ModelName, part: Part) -> CheckpointError {
    CheckpointError::Missing {
        part,
        location: format!("{name} on the hub"),
        other_weights: OTHER_WEIGHTS.into_iter().find(|file| model.has(file)),
    }
}

/// True if a configuration, a tokenizer and all weight files are present.
fn is_complete(files: &Files) -> bool {
    let has_shards = |index| weights::shards(files, index).is_ok_and(|all| all.iter().all(|shard| files.has(shard)));
    let has_weights = |(single, index)| files.has(single) || (files.has(index) && has_shards(index));
    // Files that are not valid are reported when they are read.
    let has_tokenizer = !matches!(tokenizer::sources(files, |file| files.has(file)), Ok(None));
    files.has(CONFIG) && has_tokenizer && weights::FORMATS.into_iter().any(has_weights)
}
