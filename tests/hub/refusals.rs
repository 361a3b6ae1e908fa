//! Models of the hub that are refused, and the revision that has their weights in another format.

use std::path::Path;

use cloze::checkpoint::{CheckpointError, Source};
use cloze::hub::{Hub, ModelName, Settings};
use cloze::lm::check_config;
use tempfile::TempDir;

use super::fake::{COMMIT, FakeHub, Faults, NAME, files_of};
use super::opening::{Recorder, assert_loads, open, open_as, settings};

fn pull_request(num: u64, title: &str, author: &str, status: &str) -> serde_json::Value {
    serde_json::json!({"num": num, "title": title, "status": status, "isPullRequest": true,
        "author": {"name": author, "type": "user"}, "createdAt": "2023-07-17T10:00:00.000Z"})
}

/// Weights that cannot be read: a pickle with code, none at all, and those of another library.
#[test]
fn a_conversion_in_a_pull_request_is_named() {
    const TITLE: &str = "Adding `safetensors` variant of this model";
    let pytorch = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pytorch");
    let refused = std::fs::read(pytorch.join("refused-code.bin")).unwrap();
    let discussions = vec![
        serde_json::json!({"num": 1, "title": TITLE, "status": "open", "isPullRequest": false}),
        pull_request(2, TITLE, "somebody", "open"),
        pull_request(3, TITLE, "SFconvertbot", "closed"),
        pull_request(4, "Update README.md", "SFconvertbot", "open"),
        pull_request(5, TITLE, "SFconvertbot", "open"),
    ];
    for (file, says) in [
        (
            "pytorch_model.bin",
            "pytorch_model.bin is not a file of PyTorch tensors",
        ),
        ("tf_model.h5", "its weights only as tf_model.h5"),
        ("README.md", "no weights in safetensors format"),
    ] {
        let mut files = files_of("uncased-tied");
        files.remove("model.safetensors");
        files.insert(file.to_owned(), refused.clone());
        let (hub, cache) = (FakeHub::start(files), TempDir::new().unwrap());
        // Twice: a file that is in the cache is not complete either.
        for (discussions, named) in [
            (Some(discussions.clone()), true),
            (Some(discussions.clone()), true),
            (Some(discussions[..4].to_vec()), false),
            (None, false),
        ] {
            hub.set(Faults {
                discussions,
                ..Faults::default()
            });
            let name = ModelName::parse(NAME, None).unwrap();
            let settings = settings(hub.endpoint(), cache.path());
            let opened = Source::hub(&Hub::new(settings), &name, &mut Recorder::default(), &check_config);
            let error = opened.map(drop).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
            match error {
                CheckpointError::Converted { revision, .. } => assert!(named && revision == "refs/pr/5", "{revision}"),
                error => assert!(!named, "{error}"),
            }
        }
    }
}

#[test]
fn a_cached_file_that_cannot_be_read_names_the_conversion() {
    let mut files = files_of("uncased-tied");
    let weights = files.remove("model.safetensors").unwrap();
    let pytorch = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pytorch");
    files.insert(
        "pytorch_model.bin".to_owned(),
        std::fs::read(pytorch.join("refused-code.bin")).unwrap(),
    );
    let (hub, cache) = (FakeHub::start(files), TempDir::new().unwrap());
    hub.set(Faults {
        discussions: Some(vec![pull_request(
            3,
            "Adding `safetensors` variant of this model",
            "SFconvertbot",
            "open",
        )]),
        ..Faults::default()
    });
    open(&hub, &cache).err().unwrap();
    // As another tool records a finished download.
    let model = cache.path().join("models--tiny--bert");
    std::fs::create_dir_all(model.join("refs")).unwrap();
    std::fs::write(model.join("refs/main"), COMMIT).unwrap();
    let named = "a pull request of the hub's conversion service has the weights";
    let error = open(&hub, &cache).err().unwrap();
    assert!(error.contains(named), "{error}");
    let offline = Settings {
        offline: true,
        ..settings(hub.endpoint(), cache.path())
    };
    let error = open_as(offline, NAME, None).err().unwrap();
    assert!(
        error.contains("is not a file of PyTorch tensors") && !error.contains(named),
        "{error}"
    );
    // The pull request's own revision is downloaded and cached like any other.
    let mut files = files_of("uncased-tied");
    files.insert("model.safetensors".to_owned(), weights);
    let (hub, cache) = (FakeHub::start(files), TempDir::new().unwrap());
    let at_pull_request = || open_as(settings(hub.endpoint(), cache.path()), NAME, Some("refs/pr/3"));
    assert_loads(at_pull_request().unwrap().0);
    hub.seen();
    assert_loads(at_pull_request().unwrap().0);
    assert!(hub.seen().is_empty());
    let offline = Settings {
        offline: true,
        ..settings(hub.endpoint(), cache.path())
    };
    assert_loads(open_as(offline, NAME, Some("refs/pr/3")).unwrap().0);
}

#[test]
fn errors_of_the_hub_name_their_cause() {
    let hub = FakeHub::golden("uncased-tied");
    let refuses = |status, code| Faults {
        refuses: Some((status, code)),
        ..Faults::default()
    };
    let accept = format!(
        "tiny/bert is gated: its licence has to be accepted at {}/tiny/bert",
        hub.endpoint()
    );
    let cases: Vec<(Faults, &str, &str, Vec<&str>)> = vec![
        (refuses(403, "GatedRepo"), NAME, "main", vec![&accept]),
        (refuses(401, "GatedRepo"), NAME, "main", vec![&accept]),
        (refuses(403, ""), NAME, "main", vec![&accept]),
        (refuses(401, ""), NAME, "main", vec!["rejects the access token"]),
        (refuses(500, ""), NAME, "main", vec!["status 500", "try again"]),
        (
            Faults::default(),
            "tiny/bret",
            "main",
            vec!["no local folder tiny/bret", "no model of this name"],
        ),
        (Faults::default(), NAME, "v9", vec!["tiny/bert has no revision v9"]),
        (
            Faults {
                lacks: Some("tokenizer.json"),
                ..Faults::default()
            },
            NAME,
            "main",
            vec!["no file tokenizer.json in tiny/bert"],
        ),
    ];
    for (faults, id, revision, says) in cases {
        hub.set(faults.clone());
        let cache = TempDir::new().unwrap();
        let opened = open_as(settings(hub.endpoint(), cache.path()), id, Some(revision));
        let error = opened.err().unwrap();
        for part in says {
            assert!(error.contains(part), "{faults:?}: {error}");
            assert!(!error.contains("--"), "the library names no flags: {error}");
        }
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn an_offline_client_says_what_the_cache_has() {
    let (hub, cache) = (FakeHub::golden("uncased-tied"), TempDir::new().unwrap());
    let refused = |name: &str, revision: Option<&str>| {
        let offline = Settings {
            offline: true,
            ..settings(hub.endpoint(), cache.path())
        };
        let error = open_as(offline, name, revision).err().unwrap();
        let shown = format!("({}), and the hub client is in offline mode", cache.path().display());
        assert!(error.ends_with(&shown), "{error}");
        error
    };
    let nothing = "tiny/bert is not in the cache (";
    assert!(refused(NAME, None).starts_with(nothing));
    assert_loads(open(&hub, &cache).unwrap().0);
    let other = refused(NAME, Some("v2"));
    assert!(
        other.starts_with("tiny/bert at v2 is not in the cache, which has it at other revisions ("),
        "{other}"
    );
    let other = refused(NAME, Some(&"0f".repeat(20)));
    assert!(other.contains("which has it at other revisions ("), "{other}");
    assert!(refused("tiny/bret", None).contains("bret is not in the cache ("));
    let snapshot = cache.path().join("models--tiny--bert/snapshots").join(COMMIT);
    std::fs::remove_file(snapshot.join("model.safetensors")).unwrap();
    let part = refused(NAME, None);
    assert!(part.starts_with("tiny/bert is not complete in the cache ("), "{part}");
    // As an interrupted first download leaves it.
    std::fs::remove_dir_all(cache.path().join("models--tiny--bert/refs")).unwrap();
    let part = refused(NAME, None);
    assert!(part.starts_with("tiny/bert is not complete in the cache ("), "{part}");
}

#[test]
fn an_unsupported_model_is_refused_before_its_weights_are_downloaded() {
    let renamed = |from: &str, to: &str| {
        let mut files = files_of("uncased-tied");
        let content = files.remove(from).unwrap();
        files.insert(to.to_owned(), content);
        files
    };
    let mut t5 = files_of("uncased-tied");
    let config = String::from_utf8(t5.remove("config.json").unwrap()).unwrap();
    let config = config.replace("\"model_type\": \"bert\"", "\"model_type\": \"t5\"");
    t5.insert("config.json".to_owned(), config.into_bytes());
    for (files, says) in [
        (
            renamed("model.safetensors", "tf_model.h5"),
            "tiny/bert on the hub has its weights only as tf_model.h5, and Cloze reads safetensors",
        ),
        (
            renamed("model.safetensors", "weights.txt"),
            "tiny/bert on the hub has no weights in safetensors format",
        ),
        (
            renamed("config.json", "config.yaml"),
            "tiny/bert on the hub has no config.json",
        ),
        (
            renamed("tokenizer.json", "words.txt"),
            "neither tokenizer.json nor vocab.txt",
        ),
        (t5, "model_type is \"t5\""),
    ] {
        let (hub, cache) = (FakeHub::start(files), TempDir::new().unwrap());
        let error = open(&hub, &cache).err().unwrap();
        assert!(error.contains(says), "{error}");
        let seen = hub.seen();
        assert!(!seen.iter().any(|request| request.path.contains("storage")), "{seen:?}");
    }
}
