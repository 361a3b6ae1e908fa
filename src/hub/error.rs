//! What can go wrong between here and the hub.

use std::path::Path;

/// One sentence, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Nobody says where files are kept.
    #[error("there is no home folder to keep models in; set HF_HOME to a folder")]
    NoHome,
    /// Not in the cache, and the network is off limits.
    #[error(
        "{name} is not complete in {cache} and HF_HUB_OFFLINE is set; unset it, or pass the model's folder with --model"
    )]
    Offline {
        /// The model.
        name: String,
        /// Its folder in the cache.
        cache: String,
    },
    /// TLS cannot be spoken.
    #[error(
        "{0}, so nothing can be downloaded; download the model elsewhere (hf download ID --local-dir DIR) and pass --model \
         DIR"
    )]
    Tls(#[from] crate::sys::crypto::ClientError),
    /// No answer at all.
    #[error(
        "{endpoint} cannot be reached ({reason}), and {name} is not in the cache; download it where there is a \
         network (hf download ID --local-dir DIR) and pass --model DIR, or set HF_ENDPOINT to a mirror"
    )]
    Unreachable {
        /// The hub's address.
        endpoint: String,
        /// The model.
        name: String,
        /// What the system said.
        reason: String,
    },
    /// No such model, or one that is hidden from this user.
    #[error(
        "there is no folder {name} here, and the hub shows no model of this name; check the spelling, or set HF_TOKEN \
         if the model is private"
    )]
    NoModel {
        /// The model.
        name: String,
    },
    /// The token is not good.
    #[error("the hub does not accept the token that was sent for {name}; set HF_TOKEN to one that may read it")]
    BadToken {
        /// The model.
        name: String,
    },
    /// A licence has to be accepted.
    #[error(
        "{name} is gated: accept its licence at {page} and set HF_TOKEN to a token of the account that accepted it"
    )]
    Gated {
        /// The model.
        name: String,
        /// Where to accept it.
        page: String,
    },
    /// No such branch, tag or commit.
    #[error("{id} has no revision {revision}; --revision takes a branch, a tag or a commit of the model")]
    NoRevision {
        /// The model.
        id: String,
        /// What was asked for.
        revision: String,
    },
    /// A file that was listed is not there.
    #[error("the hub has no file {file} in {name}")]
    NoFile {
        /// The model.
        name: String,
        /// The file.
        file: String,
    },
    /// No `config.json`.
    #[error("{0} has no config.json on the hub; it is not a model in the format of transformers")]
    NotAModel(String),
    /// No tokenizer that can be read.
    #[error("{0} has neither tokenizer.json nor vocab.txt on the hub, and Cloze needs one of them")]
    NoTokenizer(String),
    /// Weights in another format.
    #[error("{name} has {} on the hub, and Cloze reads safetensors only; take a revision that has them \
             (see the model's pull requests), or convert it: transformers' save_pretrained writes safetensors",
            found.map_or("no weights".to_owned(), |file| format!("its weights as {file} only")))]
    NoSafetensors {
        /// The model.
        name: String,
        /// What there is instead.
        found: Option<&'static str>,
    },
    /// An answer that makes no sense.
    #[error("{url}: {reason}")]
    Answer {
        /// What was asked.
        url: String,
        /// What was wrong with the answer.
        reason: String,
    },
    /// The connection broke too often.
    #[error("{file} broke off at {bytes} of {size} bytes ({reason}); start again to go on from there")]
    BrokenOff {
        /// The file.
        file: String,
        /// What has come.
        bytes: u64,
        /// What should have.
        size: u64,
        /// What the system said.
        reason: String,
    },
    /// Another content than was announced.
    #[error("{file} is not what the hub announced: its hash should be {etag}; what came was deleted, try again")]
    WrongHash {
        /// The file.
        file: String,
        /// The hash that was announced.
        etag: String,
    },
    /// The cache cannot be written.
    #[error("{path}: {source}; HF_HOME or HF_HUB_CACHE can name another folder for downloaded models")]
    Disk {
        /// The file or folder.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl HubError {
    pub(super) fn disk(path: &Path, source: std::io::Error) -> Self {
        Self::Disk {
            path: path.display().to_string(),
            source,
        }
    }
}
