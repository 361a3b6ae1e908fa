//! Downloads that break off, and hubs and mirrors that do not send the file that they announce.

use cloze::checkpoint::Source;
use cloze::hub::{Hub, ModelName, Progress, Settings};
use cloze::lm::check_config;
use tempfile::TempDir;

use super::fake::{Drip, FakeHub, Faults, NAME, files_of};
use super::opening::{assert_loads, open, open_as, settings, weights_path};

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
