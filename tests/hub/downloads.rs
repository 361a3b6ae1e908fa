//! Downloads of models: the cache, broken connections, refusals.

use std::path::Path;
use std::process::{Command, Stdio};

use cloze::checkpoint::{CheckpointError, Source};
use cloze::hub::{Hub, ModelName, Progress, Settings};
use cloze::lm::{BackendKind, Placement, Pooling, PretrainedModel, check_config};
use tempfile::TempDir;

use super::fake::{COMMIT, Drip, FakeHub, Faults, NAME, files_of};
use crate::common::fixtures::golden;

/// Records the progress of downloads.
#[derive(Default)]
struct Recorder {
    /// Name, size, bytes present.
    files: Vec<(String, u64, u64)>,
    reached: u64,
    ended: usize,
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

fn settings(endpoint: String, cache: &Path) -> Settings {
    Settings {
        endpoint,
        token: Some("hf_secret".to_owned()),
        ..Settings::new(cache.to_owned())
    }
}

fn open_as(settings: Settings, id: &str, revision: Option<&str>) -> Result<(PretrainedModel, Recorder), String> {
    let mut progress = Recorder::default();
    let name = ModelName::parse(id, revision).unwrap();
    let opened = Source::hub(&Hub::new(settings), &name, &mut progress, &check_config).and_then(PretrainedModel::read);
    opened
        .map(|checkpoint| (checkpoint, progress))
        .map_err(|e| e.to_string())
}

fn open(hub: &FakeHub, cache: &TempDir) -> Result<(PretrainedModel, Recorder), String> {
    open_as(settings(hub.endpoint(), cache.path()), NAME, None)
}

/// Checks that the weights are complete.
fn assert_loads(mut checkpoint: PretrainedModel) {
    #[cfg(feature = "cpu")]
    let device = BackendKind::Cpu;
    #[cfg(not(feature = "cpu"))]
    let device = BackendKind::Gpu;
    let threads = std::thread::available_parallelism().unwrap().into();
    let placement = Placement::new(device, threads);
    checkpoint.load(&placement).unwrap();
}

fn weights_path(cache: &TempDir) -> std::path::PathBuf {
    let folder = cache.path().join("models--tiny--bert/snapshots").join(COMMIT);
    folder.join("model.safetensors")
}

#[test]
fn a_model_is_downloaded_once_in_the_cache_layout_of_huggingface_hub() {
    let (hub, cache) = (FakeHub::golden("uncased-tied"), TempDir::new().unwrap());
    let (checkpoint, progress) = open(&hub, &cache).unwrap();
    assert_eq!(checkpoint.name, NAME);
    assert_loads(checkpoint);
    let names: Vec<&str> = progress.files.iter().map(|(name, ..)| name.as_str()).collect();
    let expected = [
        "config.json",
        "tokenizer_config.json",
        "tokenizer.json",
        "model.safetensors",
    ];
    assert_eq!(names, expected, "golden.json is not downloaded");
    assert_eq!((progress.ended, progress.reached), (4, progress.files[3].1));

    let folder = cache.path().join("models--tiny--bert");
    assert_eq!(std::fs::read_to_string(folder.join("refs/main")).unwrap(), COMMIT);
    #[cfg(unix)]
    {
        let link = std::fs::read_link(weights_path(&cache)).unwrap();
        assert!(link.starts_with("../../blobs"), "{link:?}");
        let blob = folder.join("blobs").join(link.file_name().unwrap());
        assert_eq!(
            std::fs::read(blob).unwrap(),
            files_of("uncased-tied")["model.safetensors"]
        );
    }
    // The token is sent to the hub, not to storage.
    let seen = hub.seen();
    assert!(seen.iter().any(|request| request.path.starts_with("/storage/")));
    for request in seen {
        let to_storage = request.path.starts_with("/storage/");
        let token = (!to_storage).then(|| "Bearer hf_secret".to_owned());
        assert_eq!(request.token, token, "{request:?}");
    }

    // The second start uses the cache and sends no request, with or without a hub.
    let (checkpoint, progress) = open(&hub, &cache).unwrap();
    assert_loads(checkpoint);
    assert!(progress.files.is_empty() && hub.seen().is_empty());
    let endpoint = hub.endpoint();
    drop(hub);
    for offline in [false, true] {
        let settings = Settings {
            offline,
            ..settings(endpoint.clone(), cache.path())
        };
        open_as(settings, NAME, None).unwrap();
    }
    // A commit is found in the cache too.
    open_as(settings(endpoint.clone(), cache.path()), NAME, Some(COMMIT)).unwrap();
    let error = open_as(settings(endpoint, cache.path()), NAME, Some("v1.0"))
        .err()
        .unwrap();
    assert!(error.contains("cannot be reached"), "{error}");
}

#[test]
fn shards_and_vocabularies_are_downloaded_too() {
    for name in [
        "sharded",
        "uncased-old-names",
        "roberta-vocab-merges",
        "albert-sentencepiece",
        "esm-2",
    ] {
        let (hub, cache) = (FakeHub::golden(name), TempDir::new().unwrap());
        assert_loads(open(&hub, &cache).unwrap().0);
        hub.seen();
        open(&hub, &cache).unwrap();
        assert!(hub.seen().is_empty(), "{name}");
    }
}

#[test]
fn shards_in_a_folder_are_downloaded_too() {
    let mut files = files_of("sharded");
    let index = "model.safetensors.index.json";
    let shards: Vec<String> = files
        .keys()
        .filter(|name| name.ends_with(".safetensors"))
        .cloned()
        .collect();
    let mut text = String::from_utf8(files[index].clone()).unwrap();
    for shard in shards {
        let content = files.remove(&shard).unwrap();
        let moved = format!("weights/{shard}");
        text = text.replace(&shard, &moved);
        files.insert(moved, content);
    }
    files.insert(index.to_owned(), text.into_bytes());
    let (hub, cache) = (FakeHub::start(files), TempDir::new().unwrap());
    assert_loads(open(&hub, &cache).unwrap().0);
    hub.seen();
    open(&hub, &cache).unwrap();
    assert!(hub.seen().is_empty());
}

#[test]
fn the_pooling_of_sparse_vectors_is_downloaded_too() {
    let mut files = files_of("uncased-tied");
    let config = br#"{"pooling_strategy": "sum"}"#;
    files.insert("1_SpladePooling/config.json".to_owned(), config.to_vec());
    let (hub, cache) = (FakeHub::start(files), TempDir::new().unwrap());
    for _ in 0..2 {
        let (checkpoint, _) = open(&hub, &cache).unwrap();
        assert_eq!(checkpoint.info.pooling, Pooling::Sum);
    }
}

#[test]
fn optional_files_that_another_tool_left_out_are_fetched_once() {
    for name in ["uncased-tied", "uncased-old-names", "strip-accents"] {
        let mut files = files_of(name);
        files.insert(
            "special_tokens_map.json".to_owned(),
            br#"{"mask_token": "[MASK]"}"#.to_vec(),
        );
        let (hub, cache) = (FakeHub::start(files), TempDir::new().unwrap());
        open(&hub, &cache).unwrap();
        let model = cache.path().join("models--tiny--bert");
        let snapshot = model.join("snapshots").join(COMMIT);
        for optional in ["tokenizer_config.json", "special_tokens_map.json"] {
            std::fs::remove_file(snapshot.join(optional)).unwrap();
            // As it was before the absence of files was recorded.
            std::fs::remove_dir_all(model.join(".no_exist")).unwrap_or_default();
            hub.seen();
            open(&hub, &cache).unwrap();
            assert!(snapshot.join(optional).exists(), "{name}: {optional}");
            assert!(!hub.seen().is_empty());
            assert!(model.join(".no_exist").join(COMMIT).join("added_tokens.json").exists());
            open(&hub, &cache).unwrap();
            assert!(hub.seen().is_empty(), "{name}: {optional}");
        }
        // Without the hub the model is used as it is.
        std::fs::remove_file(snapshot.join("tokenizer_config.json")).unwrap();
        let endpoint = hub.endpoint();
        drop(hub);
        for offline in [false, true] {
            let settings = Settings {
                offline,
                ..settings(endpoint.clone(), cache.path())
            };
            open_as(settings, NAME, None).unwrap();
        }
    }
}

#[test]
fn revisions_and_renamed_models_are_found() {
    let hub = FakeHub::golden("uncased-tied");
    for revision in ["v1.0", "refs/pr/3", COMMIT] {
        let cache = TempDir::new().unwrap();
        open_as(settings(hub.endpoint(), cache.path()), NAME, Some(revision)).unwrap();
        let noted = cache.path().join("models--tiny--bert/refs").join(revision);
        assert_eq!(noted.exists(), revision != COMMIT, "{revision}");
    }
    let cache = TempDir::new().unwrap();
    hub.set(Faults {
        renamed_from: Some("tiny-bert"),
        ..Faults::default()
    });
    assert_loads(
        open_as(settings(hub.endpoint(), cache.path()), "tiny-bert", None)
            .unwrap()
            .0,
    );
}

#[test]
fn a_broken_download_resumes_where_it_broke_off() {
    let (hub, cache) = (FakeHub::golden("uncased-tied"), TempDir::new().unwrap());
    // Broken once: the download resumes.
    hub.set(Faults {
        cut_after: Some(5000),
        ..Faults::default()
    });
    assert_loads(open(&hub, &cache).unwrap().0);
    let ranges: Vec<_> = hub.seen().into_iter().filter_map(|request| request.range).collect();
    // One request to the hub and one to storage.
    assert_eq!(ranges, ["bytes=5000-", "bytes=5000-"]);

    // Broken for good: the next start resumes.
    let cache = TempDir::new().unwrap();
    hub.set(Faults {
        cut_after: Some(7000),
        ..Faults::default()
    });
    let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        struct Dies;
        impl Progress for Dies {
            fn begin(&mut self, _: &str, _: u64, _: u64) {}
            fn reached(&mut self, bytes: u64) {
                assert_ne!(bytes, 7000, "the process ends here");
            }
            fn end(&mut self) {}
        }
        let hub = Hub::new(settings(hub.endpoint(), cache.path()));
        let name = ModelName::parse(NAME, None).unwrap();
        Source::hub(&hub, &name, &mut Dies, &check_config).map(drop)
    }));
    assert!(killed.is_err());
    assert!(!weights_path(&cache).exists());
    hub.set(Faults {
        storage_status: Some(503),
        ..Faults::default()
    });
    let error = open(&hub, &cache).err().unwrap();
    let whole = files_of("uncased-tied")["model.safetensors"].len();
    let says = format!("model.safetensors stopped at 7000 of {whole} bytes (status 503); the next start resumes");
    assert!(error.contains(&says), "{error}");
    hub.set(Faults::default());
    hub.seen();
    let (checkpoint, progress) = open(&hub, &cache).unwrap();
    assert_loads(checkpoint);
    assert_eq!(progress.files, [("model.safetensors".to_owned(), whole as u64, 7000)]);
    let ranges: Vec<_> = hub.seen().into_iter().filter_map(|request| request.range).collect();
    assert_eq!(ranges, ["bytes=7000-", "bytes=7000-"]);
}

#[test]
fn a_server_that_cannot_resume_starts_over() {
    let (hub, cache) = (FakeHub::golden("uncased-tied"), TempDir::new().unwrap());
    hub.set(Faults {
        cut_after: Some(5000),
        ignores_ranges: true,
        ..Faults::default()
    });
    assert_loads(open(&hub, &cache).unwrap().0);
}

#[test]
fn a_file_with_another_hash_is_deleted() {
    let (hub, cache) = (FakeHub::golden("uncased-tied"), TempDir::new().unwrap());
    hub.set(Faults {
        corrupts: true,
        ..Faults::default()
    });
    let error = open(&hub, &cache).err().unwrap();
    assert!(
        error.contains("model.safetensors does not have the hash that the hub announced"),
        "{error}"
    );
    assert!(!weights_path(&cache).exists());
    let blobs = std::fs::read_dir(cache.path().join("models--tiny--bert/blobs")).unwrap();
    assert_eq!(blobs.count(), 3, "the three small files alone");
    hub.set(Faults::default());
    assert_loads(open(&hub, &cache).unwrap().0);
}

#[test]
fn the_token_is_sent_to_the_hub_s_own_scheme_host_and_port_alone() {
    let other = FakeHub::golden("uncased-tied");
    for target in [other.endpoint(), other.endpoint().replace("127.0.0.1", "localhost")] {
        let (hub, cache) = (FakeHub::golden("uncased-tied"), TempDir::new().unwrap());
        // Files and the description of the model come from another port.
        hub.set(Faults {
            moved_to: Some(target),
            ..Faults::default()
        });
        let _ = open(&hub, &cache);
        assert!(hub.seen().iter().all(|request| request.token.is_some()));
        let seen = other.seen();
        assert!(!seen.is_empty());
        assert!(seen.iter().all(|request| request.token.is_none()), "{seen:?}");
    }
    // Weights come from storage on another port of the same host.
    let (hub, cache) = (FakeHub::golden("uncased-tied"), TempDir::new().unwrap());
    hub.set_public(other.endpoint());
    assert_loads(open(&hub, &cache).unwrap().0);
    let seen = other.seen();
    assert!(seen.iter().any(|request| request.path.starts_with("/storage/")));
    assert!(seen.iter().all(|request| request.token.is_none()), "{seen:?}");
}

/// A proxy's login page in place of every file, with an etag that is no hash or with the hash of the page.
#[test]
fn a_mirror_that_sends_something_else_does_not_harm_later_starts() {
    let page = b"<!DOCTYPE html>\n<html><body>Please log in</body></html>".to_vec();
    for hashed in [false, true] {
        for file in [
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "model.safetensors",
        ] {
            for content in [page.clone(), b"{\"cut\": ".to_vec(), Vec::new()] {
                let (hub, cache) = (FakeHub::golden("uncased-tied"), TempDir::new().unwrap());
                hub.set(Faults {
                    replaced: Some((file, content, hashed)),
                    ..Faults::default()
                });
                let error = open(&hub, &cache).err().unwrap();
                assert!(error.contains(file) && error.contains("is not valid ("), "{error}");
                assert_eq!(error.lines().count(), 1, "{error}");
                hub.set(Faults::default());
                assert_loads(open(&hub, &cache).unwrap().0);
            }
        }
    }
}

#[test]
fn something_else_in_the_cache_is_downloaded_again() {
    let (hub, cache) = (FakeHub::golden("uncased-tied"), TempDir::new().unwrap());
    open(&hub, &cache).unwrap();
    let snapshot = weights_path(&cache).parent().unwrap().to_owned();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        // Into the blob, to which the file is a link.
        std::fs::write(snapshot.join(file), "<html>Please log in</html>").unwrap();
        let offline = Settings {
            offline: true,
            ..settings(hub.endpoint(), cache.path())
        };
        assert!(open_as(offline, NAME, None).is_err());
        assert_loads(open(&hub, &cache).unwrap().0);
        hub.seen();
        open(&hub, &cache).unwrap();
        assert!(hub.seen().is_empty(), "{file}");
    }
}

#[test]
fn a_size_beyond_the_limit_of_text_files_is_refused_before_the_download() {
    let (hub, cache) = (FakeHub::golden("uncased-tied"), TempDir::new().unwrap());
    hub.set(Faults {
        announces: Some(("config.json", 300_000_000)),
        ..Faults::default()
    });
    let error = open(&hub, &cache).err().unwrap();
    assert!(error.contains("announces config.json with 300000000 bytes"), "{error}");
    let files = std::fs::read_dir(cache.path().join("models--tiny--bert/blobs"));
    assert_eq!(files.map_or(0, Iterator::count), 0);
}

#[test]
fn a_hub_that_sends_a_byte_now_and_then_is_left() {
    for drip_in in [Drip::Body, Drip::Connections] {
        let (hub, cache) = (FakeHub::golden("uncased-tied"), TempDir::new().unwrap());
        hub.set(Faults {
            drips: Some(drip_in),
            ..Faults::default()
        });
        let begun = std::time::Instant::now();
        let settings = Settings {
            stall_timeout: std::time::Duration::from_secs(1),
            ..settings(hub.endpoint(), cache.path())
        };
        let error = open_as(settings, NAME, None).err().unwrap();
        assert!(error.contains("model.safetensors stopped at"), "{error}");
        assert!(begun.elapsed().as_secs() < 100, "{drip_in:?}: {:?}", begun.elapsed());
    }
}

#[test]
fn a_tokenizer_file_of_which_the_hub_has_said_nothing_is_fetched() {
    // Another tool has cached vocab.txt alone.
    let mut files = files_of("uncased-old-names");
    assert!(files.contains_key("vocab.txt") && !files.contains_key("tokenizer.json"));
    files.insert(
        "tokenizer.json".to_owned(),
        files_of("uncased-tied")["tokenizer.json"].clone(),
    );
    let (hub, cache) = (FakeHub::start(files), TempDir::new().unwrap());
    let _ = open(&hub, &cache);
    let snapshot = weights_path(&cache).parent().unwrap().to_owned();
    let vocab = files_of("uncased-old-names")["vocab.txt"].clone();
    std::fs::write(snapshot.join("vocab.txt"), vocab).unwrap();
    std::fs::remove_file(snapshot.join("tokenizer.json")).unwrap();
    let _ = open(&hub, &cache);
    assert!(snapshot.join("tokenizer.json").exists());
}

#[test]
fn the_files_of_a_tokenizer_are_those_of_its_class() {
    let json = files_of("uncased-tied")["tokenizer.json"].clone();
    // ESM's class is built from vocab.txt, whatever tokenizer.json says.
    let mut files = files_of("esm-2");
    files.insert("tokenizer.json".to_owned(), json);
    let (hub, cache) = (FakeHub::start(files.clone()), TempDir::new().unwrap());
    assert_loads(open(&hub, &cache).unwrap().0);
    let snapshot = weights_path(&cache).parent().unwrap().to_owned();
    std::fs::remove_file(snapshot.join("vocab.txt")).unwrap();
    assert_loads(open(&hub, &cache).unwrap().0);
    files.remove("vocab.txt");
    let (hub, cache) = (FakeHub::start(files), TempDir::new().unwrap());
    let error = open(&hub, &cache).err().unwrap();
    assert!(error.contains("has no vocab.txt"), "{error}");
    // A class that is not supported is refused before the weights are downloaded.
    let mut files = files_of("uncased-tied");
    let config = br#"{"tokenizer_class": "BertweetTokenizer"}"#.to_vec();
    files.insert("tokenizer_config.json".to_owned(), config);
    let (hub, cache) = (FakeHub::start(files), TempDir::new().unwrap());
    let error = open(&hub, &cache).err().unwrap();
    assert!(
        error.contains("\"BertweetTokenizer\", which is not supported"),
        "{error}"
    );
    assert!(!weights_path(&cache).exists());
}

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

#[test]
fn the_server_starts_on_a_model_of_the_hub() {
    let (hub, home) = (FakeHub::golden("uncased-tied"), TempDir::new().unwrap());
    let endpoint = hub.endpoint();
    let online = [("HF_ENDPOINT", endpoint.as_str())];
    let offline = [("HF_ENDPOINT", endpoint.as_str()), ("HF_HUB_OFFLINE", "1")];
    let error = start(home.path(), &offline, NAME).unwrap_err();
    assert!(
        error.contains("; unset HF_HUB_OFFLINE") && error.contains("--model"),
        "{error}"
    );
    assert!(hub.seen().is_empty());
    assert!(start(home.path(), &online, NAME).unwrap().contains("tiny/bert"));
    assert!(home.path().join("hub/models--tiny--bert").is_dir());
    drop(hub);
    assert!(start(home.path(), &online, NAME).unwrap().contains("tiny/bert"));
    assert!(start(home.path(), &offline, NAME).unwrap().contains("tiny/bert"));

    let empty = TempDir::new().unwrap();
    let error = start(empty.path(), &online, NAME).unwrap_err();
    assert!(
        error.contains("cannot be reached") && error.contains(&endpoint) && error.contains("--model DIR"),
        "{error}"
    );
    for (model, says) in [
        ("./nowhere", "neither a local folder nor the name of a model on the hub"),
        ("/no/such/folder", "/no/such/folder is neither"),
        ("a/b/c", "neither"),
    ] {
        let error = start(empty.path(), &online, model).unwrap_err();
        assert!(error.contains(says), "{model}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    // A folder that exists has priority over the hub.
    let folder = golden("uncased-tied");
    let revision = [("HF_ENDPOINT", endpoint.as_str()), ("CLOZE_REVISION", "v1")];
    assert!(start(empty.path(), &online, &folder).unwrap().contains("uncased-tied"));
    assert!(
        start(empty.path(), &revision, &folder)
            .unwrap_err()
            .contains("CLOZE_REVISION")
    );
}
