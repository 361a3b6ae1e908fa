//! Models of the Hugging Face hub: downloaded once into the hub's own cache, used from there ever after.
//!
//! The cache has the layout that all of the hub's tools share, so what they have downloaded is found here and
//! the other way round. A model that is in the cache is used without a word to the network.
//!
//! | file | what it is |
//! |---|---|
//! | `name` | `google-bert/bert-base-uncased`, and which revision |
//! | `settings` | the environment variables of the hub's tools |
//! | `cache` | folders: blobs, snapshots, refs |
//! | `client` | the requests, and what their answers mean |
//! | `download` | one file: resumed, measured and hashed |
//! | `digest` | what the hub says that a file's hash is |
//! | `error` | what can go wrong, and what to do about it |

mod cache;
mod client;
mod digest;
mod download;
mod error;
mod name;
mod settings;

use std::path::PathBuf;

use crate::checkpoint::files::Files;
use crate::checkpoint::{CheckpointError, config, weights};
use cache::Cache;
use client::Client;

pub use error::HubError;
pub use name::ModelName;
pub use settings::Settings;

/// Told how far a download has come.
pub trait Progress {
    /// A file begins: its name, its size in bytes, and how much of it is there from an earlier attempt.
    fn begin(&mut self, file: &str, bytes: u64, present: u64);
    /// So many bytes of it are there now.
    fn reached(&mut self, bytes: u64);
    /// It is whole and right.
    fn end(&mut self);
}

/// The hub, as the environment describes it.
pub struct Hub {
    settings: Settings,
}

impl Hub {
    /// A hub under `settings`.
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// The model's folder in the cache; what it lacks is downloaded first.
    ///
    /// # Errors
    /// [`CheckpointError::Hub`] with what to do, or what is wrong with the model's own `config.json`, which is
    /// read before its weights are fetched.
    pub fn fetch(&self, name: &ModelName, progress: &mut dyn Progress) -> Result<PathBuf, CheckpointError> {
        let cache = Cache::new(&self.settings.cache, name);
        if let Some(commit) = cache.commit()
            && is_whole(&cache.snapshot(&commit))
        {
            return Ok(cache.snapshot(&commit));
        }
        if self.settings.offline {
            return Err(HubError::Offline {
                name: name.to_string(),
                cache: cache.folder().display().to_string(),
            }
            .into());
        }
        let client = Client::new(&self.settings, name)?;
        let info = client.info()?;
        let folder = cache.snapshot(&info.commit);
        let mut fetch = |file: &str| download::download(&client, &cache, &info.commit, file, progress);
        let has = |file: &str| info.files.iter().any(|known| known == file);
        if !has("config.json") {
            return Err(HubError::NotAModel(name.to_string()).into());
        }
        fetch("config.json")?;
        // What is refused is refused before hundreds of megabytes are on their way.
        config::read(&Files::Folder(folder.clone()))?;
        if has("tokenizer_config.json") {
            fetch("tokenizer_config.json")?;
        }
        match (has("tokenizer.json"), has("vocab.txt")) {
            (true, _) => fetch("tokenizer.json")?,
            (false, true) => fetch("vocab.txt")?,
            (false, false) => return Err(HubError::NoTokenizer(name.to_string()).into()),
        }
        match (has(weights::SINGLE), has(weights::INDEX)) {
            (true, _) => fetch(weights::SINGLE)?,
            (false, true) => {
                fetch(weights::INDEX)?;
                for shard in weights::shards(&Files::Folder(folder.clone()))? {
                    fetch(&shard)?;
                }
            }
            (false, false) => {
                let others = ["pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5"];
                let found = others.into_iter().find(|file| has(file));
                return Err(HubError::NoSafetensors {
                    name: name.to_string(),
                    found,
                }
                .into());
            }
        }
        // Last, so that a model that is half there is never taken for a whole one.
        cache.set_commit(&info.commit)?;
        Ok(folder)
    }
}

/// Whether everything that a model cannot do without is in `folder`.
fn is_whole(folder: &std::path::Path) -> bool {
    let files = Files::Folder(folder.to_owned());
    let shards_are_there = || weights::shards(&files).is_ok_and(|shards| shards.iter().all(|shard| files.has(shard)));
    files.has("config.json")
        && (files.has("tokenizer.json") || files.has("vocab.txt"))
        && (files.has(weights::SINGLE) || (files.has(weights::INDEX) && shards_are_there()))
}
