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

/// A copy of a golden checkpoint that a test may change.
pub fn golden_copy(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden(name)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

/// A PEM file in `tests/fixtures/tls`.
pub fn tls(name: &str) -> String {
    let file = fixtures().join("tls").join(name);
    file.to_str().expect("the repository's path is UTF-8").to_owned()
}
