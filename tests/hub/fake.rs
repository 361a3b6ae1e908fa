//! A server with the hub's endpoints as `huggingface_hub` uses them, and with faults on request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures_util::{StreamExt, stream};
use poem::http::{HeaderMap, Method, StatusCode, header};
use poem::listener::TcpAcceptor;
use poem::{Body, Request, Response, Server};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::common::fixtures::golden;

/// The only commit.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// The only model.
pub const NAME: &str = "tiny/bert";

/// Faults of the hub.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Storage breaks the connection once, after this many bytes of a response.
    pub cut_after: Option<usize>,
    /// Storage answers with this status.
    pub storage_status: Option<u16>,
    /// Storage always sends the whole file.
    pub ignores_ranges: bool,
    /// Storage changes a byte.
    pub corrupts: bool,
    /// Every request to the hub itself is answered with this status and `x-error-code`.
    pub refuses: Option<(u16, &'static str)>,
    /// A file that is listed and not there.
    pub lacks: Option<&'static str>,
    /// The model has moved here from another name.
    pub renamed_from: Option<&'static str>,
    /// Every request is redirected to this address.
    pub moved_to: Option<String>,
    /// A file with another content, and whether its etag is the hash of that.
    pub replaced: Option<(&'static str, Vec<u8>, bool)>,
    /// A file with another size in the head.
    pub announces: Option<(&'static str, u64)>,
    /// Discussions of the model, in pages of two.
    pub discussions: Option<Vec<serde_json::Value>>,
    /// Storage sends a byte now and then.
    pub drips: Option<Drip>,
}

/// The way in which storage sends single bytes.
#[derive(Clone, Copy, Debug)]
pub enum Drip {
    /// One every 100 ms.
    Body,
    /// One on each connection.
    Connections,
}

/// A request as the hub saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub range: Option<String>,
    pub token: Option<String>,
}

struct State {
    port: u16,
    /// The address of a proxy in front of it.
    public: Mutex<Option<String>>,
    files: HashMap<String, Vec<u8>>,
    faults: Mutex<Faults>,
    seen: Mutex<Vec<Seen>>,
}

/// A running hub; it stops when dropped.
pub struct FakeHub {
    state: Arc<State>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl FakeHub {
    /// Serves `files` as the model's.
    pub fn start(files: HashMap<String, Vec<u8>>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let state = Arc::new(State {
            port: listener.local_addr().unwrap().port(),
            public: Mutex::default(),
            files,
            faults: Mutex::default(),
            seen: Mutex::default(),
        });
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let theirs = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let endpoint = poem::endpoint::make_sync(move |request| theirs.answer(&request));
                let server = Server::new_with_acceptor(TcpAcceptor::from_std(listener).unwrap());
                let stopped = async { stopped.await.unwrap_or_default() };
                let at_once = Some(std::time::Duration::ZERO);
                server
                    .run_with_graceful_shutdown(endpoint, stopped, at_once)
                    .await
                    .unwrap();
            });
        });
        Self {
            state,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// A golden checkpoint as the model.
    pub fn golden(name: &str) -> Self {
        Self::start(files_of(name))
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.state.port)
    }

    pub fn port(&self) -> u16 {
        self.state.port
    }

    /// Sets the address of a proxy, for redirects to storage.
    pub fn set_public(&self, address: String) {
        *self.state.public.lock().unwrap() = Some(address);
    }

    pub fn set(&self, faults: Faults) {
        *self.state.faults.lock().unwrap() = faults;
    }

    /// All requests since the last call.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.state.seen.lock().unwrap())
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        self.thread.take().unwrap().join().unwrap();
    }
}

/// The files of a golden checkpoint.
pub fn files_of(name: &str) -> HashMap<String, Vec<u8>> {
    let files = std::fs::read_dir(golden(name)).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read(path).unwrap())
    });
    files.collect()
}

impl State {
    fn answer(&self, request: &Request) -> Response {
        let header = |name| {
            request
                .headers()
                .get(name)
                .map(|value| value.to_str().unwrap().to_owned())
        };
        let path = request.uri().path().to_owned();
        self.seen.lock().unwrap().push(Seen {
            path: path.clone(),
            range: header(header::RANGE),
            token: header(header::AUTHORIZATION),
        });
        let faults = self.faults.lock().unwrap().clone();
        if let Some(file) = path.strip_prefix("/storage/") {
            return self.storage(&faults, file, request.headers());
        }
        if let Some((status, code)) = faults.refuses {
            return refuse(status, code);
        }
        if let Some(target) = &faults.moved_to {
            return Response::builder()
                .status(StatusCode::TEMPORARY_REDIRECT)
                .header(header::LOCATION, format!("{target}{path}"))
                .finish();
        }
        if let Some(old) = faults.renamed_from
            && path.contains(old)
        {
            let location = path.replace(old, NAME);
            return Response::builder()
                .status(StatusCode::TEMPORARY_REDIRECT)
                .header(header::LOCATION, location)
                .finish();
        }
        let revisions = ["main", "v1.0", "refs%2Fpr%2F3", COMMIT];
        if let Some(revision) = path.strip_prefix(&format!("/api/models/{NAME}/revision/")) {
            return match revisions.contains(&revision) {
                true => self.info(),
                false => refuse(404, "RevisionNotFound"),
            };
        }
        if path == format!("/api/models/{NAME}/discussions") {
            return match &faults.discussions {
                Some(discussions) => page(discussions, request.uri().query().unwrap_or_default()),
                None => refuse(403, ""),
            };
        }
        match path.strip_prefix(&format!("/{NAME}/resolve/{COMMIT}/")) {
            Some(file) if faults.lacks == Some(file) => refuse(404, "EntryNotFound"),
            Some(file) => self.resolve(&faults, file, request.method()),
            None => refuse(401, "RepoNotFound"),
        }
    }

    fn info(&self) -> Response {
        let files = self.files.keys().map(|name| serde_json::json!({ "rfilename": name }));
        let info = serde_json::json!({ "id": NAME, "sha": COMMIT, "siblings": files.collect::<Vec<_>>() });
        Response::builder()
            .content_type("application/json")
            .body(info.to_string())
    }

    /// Small files come from here, large ones from storage, under another host's name.
    fn resolve(&self, faults: &Faults, file: &str, method: &Method) -> Response {
        let Some(content) = self.files.get(file) else {
            return refuse(404, "EntryNotFound");
        };
        if let Some((name, content, hashed)) = &faults.replaced
            && *name == file
        {
            let etag = match hashed {
                true => hex(&Sha256::digest(content)),
                false => "65f-abc".to_owned(),
            };
            let body = if method == Method::HEAD {
                Vec::new()
            } else {
                content.clone()
            };
            return Response::builder()
                .header(header::ETAG, format!("\"{etag}\""))
                .header(header::CONTENT_LENGTH, content.len())
                .body(body);
        }
        if let Some((name, bytes)) = faults.announces
            && name == file
        {
            let response = Response::builder().header(header::ETAG, "\"65f-abc\"");
            return response.header(header::CONTENT_LENGTH, bytes).finish();
        }
        let response = Response::builder().header("x-repo-commit", COMMIT);
        if file.ends_with(".safetensors") {
            let own = || format!("http://localhost:{}", self.port);
            let public = self.public.lock().unwrap().clone().unwrap_or_else(own);
            return response
                .status(StatusCode::FOUND)
                .header("x-linked-etag", format!("\"{}\"", hex(&Sha256::digest(content))))
                .header("x-linked-size", content.len())
                .header(header::LOCATION, format!("{public}/storage/{file}"))
                .finish();
        }
        let blob = [format!("blob {}\0", content.len()).as_bytes(), content].concat();
        let body = if method == Method::HEAD {
            Vec::new()
        } else {
            content.clone()
        };
        response
            .header(header::ETAG, format!("\"{}\"", hex(&Sha1::digest(blob))))
            .header(header::CONTENT_LENGTH, content.len())
            .body(body)
    }

    fn storage(&self, faults: &Faults, file: &str, headers: &HeaderMap) -> Response {
        if let Some(status) = faults.storage_status {
            return refuse(status, "");
        }
        let mut content = self.files[file].clone();
        if faults.corrupts {
            content[1000] ^= 1;
        }
        let range = headers.get(header::RANGE).filter(|_| !faults.ignores_ranges);
        let start = range.map(|range| range.to_str().unwrap());
        let start = start.map(|range| {
            range
                .trim_start_matches("bytes=")
                .trim_end_matches('-')
                .parse::<usize>()
        });
        let (whole, start) = (content.len(), start.map(Result::unwrap));
        let sent = content.split_off(start.unwrap_or(0));
        let mut response = Response::builder().header(header::CONTENT_LENGTH, sent.len());
        if let Some(start) = start {
            response = response
                .status(StatusCode::PARTIAL_CONTENT)
                .header(header::CONTENT_RANGE, format!("bytes {start}-{}/{whole}", whole - 1));
        }
        if let Some(drip) = faults.drips {
            let pieces = stream::iter(sent).then(move |byte| async move {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                Ok::<_, std::io::Error>(vec![byte])
            });
            return match drip {
                Drip::Body => response.body(Body::from_bytes_stream(pieces)),
                Drip::Connections => {
                    let end = stream::iter([Err(std::io::Error::other("an injected fault"))]);
                    response.body(Body::from_bytes_stream(pieces.take(1).chain(end)))
                }
            };
        }
        match faults.cut_after {
            None => response.body(sent),
            Some(bytes) => {
                self.faults.lock().unwrap().cut_after = None;
                let pieces = [
                    Ok(sent[..bytes].to_vec()),
                    Err(std::io::Error::other("an injected fault")),
                ];
                // Time for the first to leave before the connection breaks.
                let pieces = stream::iter(pieces).then(|piece| async {
                    if piece.is_err() {
                        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    }
                    piece
                });
                response.body(Body::from_bytes_stream(pieces))
            }
        }
    }
}

/// The page of discussions whose number a query names.
fn page(discussions: &[serde_json::Value], query: &str) -> Response {
    let number = query.split('&').find_map(|field| field.strip_prefix("p="));
    let number: usize = number.map_or(0, |number| number.parse().unwrap());
    let start = 2 * number;
    let page: Vec<_> = discussions.iter().skip(start).take(2).collect();
    let body = serde_json::json!({"count": discussions.len(), "start": start, "discussions": page});
    Response::builder()
        .content_type("application/json")
        .body(body.to_string())
}

fn refuse(status: u16, code: &str) -> Response {
    let response = Response::builder().status(StatusCode::from_u16(status).unwrap());
    match code {
        "" => response.finish(),
        code => response.header("x-error-code", code).finish(),
    }
}

fn hex(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
