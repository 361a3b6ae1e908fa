//! Models of the fake hub, opened in this process and by the server.

use std::path::Path;
use std::process::{Command, Stdio};

use cloze::checkpoint::Source;
use cloze::hub::{Hub, ModelName, Progress, Settings};
use cloze::lm::{BackendKind, Placement, PretrainedModel, check_config};
use tempfile::TempDir;

use super::fake::{COMMIT, FakeHub, NAME};

/// Records the progress of downloads.
#[derive(Default)]
pub struct Recorder {
    /// Name, size, bytes present.
    pub files: Vec<(String, u64, u64)>,
    pub reached: u64,
    pub ended: usize,
}

impl Progress for Recorder {
    fn begin(&mut self, file: &str, bytes: u64, present: u64) {
        self.files.push((file.to_owned(), bytes, present));
    }
    fn reached(&mut self, bytes: u64) {
        self.reached = bytes;
    }
    fn end(&mut self) {
        self.ended += 1;
    }
}

pub fn settings(endpoint: String, cache: &Path) -> Settings {
    Settings {
        endpoint,
        token: Some("hf_secret".to_owned()),
        ..Settings::new(cache.to_owned())
    }
}

pub fn open_as(settings: Settings, id: &str, revision: Option<&str>) -> Result<(PretrainedModel, Recorder), String> {
    let mut progress = Recorder::default();
    let name = ModelName::parse(id, revision).unwrap();
    let opened = Source::hub(&Hub::new(settings), &name, &mut progress, &check_config).and_then(PretrainedModel::read);
    opened
        .map(|checkpoint| (checkpoint, progress))
        .map_err(|e| e.to_string())
}

pub fn open(hub: &FakeHub, cache: &TempDir) -> Result<(PretrainedModel, Recorder), String> {
    open_as(settings(hub.endpoint(), cache.path()), NAME, None)
}

/// Checks that the weights are complete.
pub fn assert_loads(mut checkpoint: PretrainedModel) {
    #[cfg(feature = "cpu")]
    let device = BackendKind::Cpu;
    #[cfg(not(feature = "cpu"))]
    let device = BackendKind::Gpu;
    let threads = std::thread::available_parallelism().unwrap().into();
    let placement = Placement::new(device, threads);
    checkpoint.load(&placement).unwrap();
}

pub fn weights_path(cache: &TempDir) -> std::path::PathBuf {
    let folder = cache.path().join("models--tiny--bert/snapshots").join(COMMIT);
    folder.join("model.safetensors")
}

/// Starts the server on a model. Returns the banner's line about the model, or the standard error if it does not start.
pub fn start(cache: &Path, variables: &[(&str, &str)], model: &str) -> Result<String, String> {
    use std::io::{BufRead, BufReader, Read};
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloze"));
    command.args(["--port", "0", "--model", model]).env("HF_HOME", cache);
    for variable in [
        "HF_HUB_CACHE",
        "HF_ENDPOINT",
        "HF_TOKEN",
        "HF_HUB_OFFLINE",
        "http_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "https_proxy",
        "SSL_CERT_FILE",
    ] {
        command.env_remove(variable);
    }
    command.envs(variables.iter().copied());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let serves = lines.into_iter().find(|line| line.contains("  model "));
    if serves.is_some() {
        child.kill().unwrap();
    }
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    child.wait().unwrap();
    serves.ok_or(error)
}
