//! Paths of the files in `tests/fixtures`.

use std::path::PathBuf;

fn fixtures() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "fixtures"].iter().collect()
}

/// The folder with one folder for each golden checkpoint.
pub fn golden_checkpoints() -> PathBuf {
    fixtures().join("golden")
}

/// The folder of one golden checkpoint, as a command-line argument.
pub fn golden(name: &str) -> String {
    let folder = golden_checkpoints().join(name);
    folder.to_str().expect("the repository's path is UTF-8").to_owned()
}

/// A PEM file in `tests/fixtures/tls`.
pub fn tls(name: &str) -> String {
    let file = fixtures().join("tls").join(name);
    file.to_str().expect("the repository's path is UTF-8").to_owned()
}
