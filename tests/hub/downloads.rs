//! Downloads of models: the files of each, the cache, and starts from it.

use cloze::hub::Settings;
use cloze::lm::Pooling;
use tempfile::TempDir;

use super::fake::{COMMIT, FakeHub, Faults, NAME, files_of};
use super::opening::{assert_loads, open, open_as, settings, start, weights_path};
use crate::common::fixtures::golden;

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

#[test]
fn the_server_starts_on_a_model_of_the_hub() {
    let (hub, home) = (FakeHub::golden("uncased-tied"), TempDir::new().unwrap());
    let endpoint = hub.endpoint();
    let online = [("HF_ENDPOINT", endpoint.as_str())];
    let offline = [("HF_ENDPOINT", endpoint.as_str()), ("HF_HUB_OFFLINE", "1")];
    let error = start(home.path(), &offline, NAME).unwrap_err();
    assert!(
        error.contains("tiny/bert is not in the cache (")
            && error.contains("; unset HF_HUB_OFFLINE")
            && error.contains("--model"),
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
        error.contains("cannot be reached") && error.contains(&endpoint) && error.contains("DIR with --model"),
        "{error}"
    );
    for (model, says) in [
        (
            "./nowhere",
            "there is no folder ./nowhere, and a model of the hub has a name such as",
        ),
        ("/no/such/folder", "there is no folder /no/such/folder, and"),
        ("a/b/c", "there is no folder a/b/c, and"),
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
