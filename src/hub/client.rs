//! HTTP requests to the hub, and errors from their responses.

use std::io::Read;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::http::{HeaderMap, Method, Request, Response, Uri, header};
use ureq::{Agent, Body};

use super::name::is_part;
use super::{HubError, ModelName, Settings};
use crate::sys::crypto;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Limit on a response of the hub's API, however it arrives.
const INFO_TIMEOUT: Duration = Duration::from_secs(60);
/// Limit on a response of the hub's API, such as the list of the files of a model.
const INFO_BYTES_MAX: u64 = 16 << 20;
/// The hub redirects from the former name of a renamed model.
const REDIRECTS_MAX: u32 = 5;

/// Sends requests about one model.
pub struct Client<'a> {
    agent: Agent,
    settings: &'a Settings,
    name: &'a ModelName,
}

/// Commit and file list of a revision.
pub struct Info {
    pub commit: String,
    pub files: Vec<String>,
}

/// Response headers of a file.
pub struct Metadata {
    /// Identifies the content; for most files it is a hash, see [`super::digest`].
    pub etag: String,
    pub bytes: u64,
}

/// The content of a file from byte `start` to its end.
pub struct Content {
    /// 0 if the server does not support ranges.
    pub start: u64,
    pub reader: Box<dyn Read>,
}

impl<'a> Client<'a> {
    pub fn new(settings: &'a Settings, name: &'a ModelName) -> Result<Self, HubError> {
        let config = Agent::config_builder()
            .tls_config(crypto::client()?)
            .user_agent(concat!("cloze/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            // Redirects are followed here, so that the token does not reach the storage servers that the hub redirects
            // to.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(settings.metadata_timeout))
            .timeout_per_read(Some(settings.read_timeout))
            .build();
        Ok(Self {
            agent: config.new_agent(),
            settings,
            name,
        })
    }

    /// Requests the commit of the revision and its file list.
    pub fn info(&self) -> Result<Info, HubError> {
        #[derive(Deserialize)]
        struct Body {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let revision = self.name.revision().replace('/', "%2F");
        let path = format!("revision/{revision}");
        let info: Body = self.api(&path, "describe a model")?;
        if !is_part(&info.sha) {
            return Err(HubError::Response {
                url: self.api_url(&path),
                reason: format!("\"{}\" is not a commit id", info.sha),
            });
        }
        Ok(Info {
            commit: info.sha,
            files: info.siblings.into_iter().map(|sibling| sibling.rfilename).collect(),
        })
    }

    /// Requests `path` of the hub's API for the model. `purpose` completes the sentence "the response does not …".
    pub(super) fn api<T: DeserializeOwned>(&self, path: &str, purpose: &str) -> Result<T, HubError> {
        let url = self.api_url(path);
        let request = RequestTo::get(&url).within(INFO_TIMEOUT);
        let (mut response, _) = self.follow(request).map_err(|e| self.failed(e))?;
        if !response.status().is_success() {
            return Err(self.refused(&response, &url, None));
        }
        let body = response.body_mut().with_config().limit(INFO_BYTES_MAX).read_to_vec();
        let body = body.map_err(|e| self.unreachable(&e))?;
        serde_json::from_slice(&body).map_err(|error| HubError::Response {
            url,
            reason: format!("the response does not {purpose}: {error}"),
        })
    }

    fn api_url(&self, path: &str) -> String {
        format!("{}/api/models/{}/{path}", self.settings.endpoint, self.name.id())
    }

    /// Requests etag and size of a file. The hub redirects to a storage server; its own headers, not those of the
    /// storage server, describe the file.
    pub fn metadata(&self, commit: &str, file: &str) -> Result<Metadata, HubError> {
        let url = self.file_url(commit, file);
        // A redirect to storage has the header; one without it leads to the model's new name.
        let request = RequestTo::head(&url).until("x-linked-etag");
        let (response, url) = self.follow(request).map_err(|e| self.failed(e))?;
        let (status, headers) = (response.status(), response.headers());
        if !(status.is_success() || status.is_redirection()) {
            return Err(self.refused(&response, &url, Some(file)));
        }
        let etag = text(headers, "x-linked-etag").or_else(|| text(headers, "etag"));
        let size = text(headers, "x-linked-size").or_else(|| text(headers, "content-length"));
        let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned());
        match (
            etag.filter(|etag| is_part(etag)),
            size.and_then(|size| size.parse().ok()),
        ) {
            (Some(etag), Some(bytes)) => Ok(Metadata { etag, bytes }),
            _ => Err(HubError::Response {
                url,
                reason: "the response lacks etag or content-length".to_owned(),
            }),
        }
    }

    /// Requests the content of a file from byte `start` on.
    pub fn content(&self, commit: &str, file: &str, start: u64) -> Result<Content, Failure> {
        let url = self.file_url(commit, file);
        let mut request = RequestTo::get(&url);
        if start > 0 {
            request = request.from(start);
        }
        let (response, _) = self.follow(request).map_err(|error| match error {
            RequestError::Transport(error) => Failure::Transient(error.to_string()),
            error => Failure::Permanent(self.failed(error)),
        })?;
        let status = response.status().as_u16();
        let begins_at = match status {
            200 => 0,
            206 => text(response.headers(), "content-range")
                .and_then(first_byte)
                .unwrap_or(0),
            // The file has shrunk on the server.
            416 => return Err(Failure::Transient("the range was refused".to_owned())),
            429 | 500..=599 => return Err(Failure::Transient(format!("status {status}"))),
            _ => return Err(Failure::Permanent(self.refused(&response, &url, Some(file)))),
        };
        Ok(Content {
            start: begins_at,
            reader: Box::new(response.into_body().into_reader()),
        })
    }

    /// Sends a request and follows its redirects. Returns the last response and its URL. The token is sent to the hub's
    /// own origin alone: scheme, host and port.
    fn follow(&self, request: RequestTo<'_>) -> Result<(Response<Body>, String), RequestError> {
        let mut url = request.url.to_owned();
        for _ in 0..=REDIRECTS_MAX {
            let mut builder = Request::builder()
                .method(request.method.clone())
                .uri(&url)
                .header(header::ACCEPT_ENCODING, "identity");
            if let Some(token) = &self.settings.token
                && is_same_origin(&url, &self.settings.endpoint)
            {
                builder = builder.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if let Some(start) = request.start {
                builder = builder.header(header::RANGE, format!("bytes={start}-"));
            }
            let built = builder
                .body(())
                .map_err(|error| RequestError::Transport(error.into()))?;
            let built = self
                .agent
                .configure_request(built)
                .timeout_global(request.timeout)
                .build();
            let response = self.agent.run(built).map_err(RequestError::Transport)?;
            let is_last = request.until.is_some_and(|name| response.headers().contains_key(name));
            if !response.status().is_redirection() || is_last {
                return Ok((response, url));
            }
            let location = text(response.headers(), "location").unwrap_or_default();
            let Some(target) = resolve(&url, location) else {
                let reason = format!("redirect to \"{location}\", which is no valid address");
                return Err(RequestError::Redirect { url, reason });
            };
            // Another server's headers do not describe the hub's file.
            if request.until.is_some() && !is_same_origin(&target, &self.settings.endpoint) {
                let reason = format!("redirect to \"{location}\" without the headers that describe the file");
                return Err(RequestError::Redirect { url, reason });
            }
            url = target;
        }
        let reason = "too many redirects".to_owned();
        Err(RequestError::Redirect { url, reason })
    }

    pub fn endpoint(&self) -> &str {
        &self.settings.endpoint
    }

    pub fn stall_timeout(&self) -> Duration {
        self.settings.stall_timeout
    }

    fn file_url(&self, commit: &str, file: &str) -> String {
        format!("{}/{}/resolve/{commit}/{file}", self.settings.endpoint, self.name.id())
    }

    fn failed(&self, error: RequestError) -> HubError {
        match error {
            RequestError::Transport(error) => self.unreachable(&error),
            RequestError::Redirect { url, reason } => HubError::Response { url, reason },
        }
    }

    fn unreachable(&self, error: &ureq::Error) -> HubError {
        HubError::Unreachable {
            endpoint: self.settings.endpoint.clone(),
            name: self.name.to_string(),
            reason: error.to_string(),
        }
    }

    /// Error of a response without success, by its status and the hub's own error code.
    fn refused(&self, response: &Response<Body>, url: &str, file: Option<&str>) -> HubError {
        let name = self.name.to_string();
        let code = text(response.headers(), "x-error-code").unwrap_or_default();
        match (response.status().as_u16(), code, file) {
            (401 | 403, "GatedRepo", _) | (403, _, _) => HubError::Gated {
                name,
                page: format!("{}/{}", self.settings.endpoint, self.name.id()),
            },
            (401, "", _) if self.settings.token.is_some() => HubError::BadToken { name },
            (_, "RevisionNotFound", _) => HubError::NoRevision {
                id: self.name.id().to_owned(),
                revision: self.name.revision().to_owned(),
            },
            // The hub responds with 401 to names that do not exist, to keep private ones secret.
            (_, "RepoNotFound", _) | (401, _, _) | (404, _, None) => HubError::NoModel { name },
            (404, _, Some(file)) => HubError::NoFile {
                name,
                file: file.to_owned(),
            },
            (status, _, _) => HubError::Response {
                url: url.to_owned(),
                reason: format!("the hub responded with status {status}; try again later"),
            },
        }
    }
}

/// A request for content that failed.
pub enum Failure {
    /// Another attempt may succeed.
    Transient(String),
    /// Another attempt would fail too.
    Permanent(HubError),
}

/// The value of a header, if it is text.
fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// A request that is sent again to the target of each redirect.
struct RequestTo<'u> {
    method: Method,
    url: &'u str,
    /// First byte to send.
    start: Option<u64>,
    /// Limit on the request and its whole response.
    timeout: Option<Duration>,
    /// A redirect with this header is not followed; one without it must lead to the hub itself.
    until: Option<&'static str>,
}

impl<'u> RequestTo<'u> {
    fn get(url: &'u str) -> Self {
        Self {
            method: Method::GET,
            url,
            start: None,
            timeout: None,
            until: None,
        }
    }

    fn head(url: &'u str) -> Self {
        Self {
            method: Method::HEAD,
            ..Self::get(url)
        }
    }

    fn from(self, start: u64) -> Self {
        Self {
            start: Some(start),
            ..self
        }
    }

    fn within(self, timeout: Duration) -> Self {
        Self {
            timeout: Some(timeout),
            ..self
        }
    }

    fn until(self, header: &'static str) -> Self {
        Self {
            until: Some(header),
            ..self
        }
    }
}

/// A request without a usable response.
enum RequestError {
    Transport(ureq::Error),
    Redirect { url: String, reason: String },
}

/// Scheme, host and port of an HTTP URL.
fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let port = match (uri.port_u16(), scheme.as_str()) {
        (Some(port), _) => port,
        (None, "https") => 443,
        (None, "http") => 80,
        _ => return None,
    };
    Some((scheme, uri.host()?.to_ascii_lowercase(), port))
}

fn is_same_origin(url: &str, other: &str) -> bool {
    matches!((origin(url), origin(other)), (Some(url), Some(other)) if url == other)
}

/// The target of a redirect from `url`; `None` unless it is an HTTP URL.
fn resolve(url: &str, location: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let target = match location {
        _ if location.contains("://") => location.to_owned(),
        _ if location.starts_with("//") => format!("{scheme}:{location}"),
        _ if location.starts_with('/') => format!("{scheme}://{authority}{location}"),
        _ => {
            let path = rest.split(['?', '#']).next()?;
            let folder = path.rsplit_once('/').map_or(path, |(folder, _)| folder);
            format!("{scheme}://{folder}/{location}")
        }
    };
    origin(&target).map(|_| target)
}

/// The first byte of `bytes 100-199/200`.
fn first_byte(range: &str) -> Option<u64> {
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let hub = "https://huggingface.co";
        for (url, same) in [
            ("https://huggingface.co/a/b?c", true),
            ("https://HuggingFace.co:443/a", true),
            ("http://huggingface.co/a", false),
            ("https://huggingface.co:8443/a", false),
            ("https://cdn.huggingface.co/a", false),
            ("https://huggingface.co.evil.example/a", false),
            ("https://huggingface.co@evil.example/a", false),
            ("ftp://huggingface.co/a", false),
        ] {
            assert_eq!(is_same_origin(url, hub), same, "{url}");
        }
    }

    #[test]
    fn redirects_are_resolved_as_browsers_do() {
        for (location, target) in [
            ("http://b.example/x", Some("http://b.example/x")),
            ("//b.example/x", Some("https://b.example/x")),
            ("/x?y=1", Some("https://a.example:8/x?y=1")),
            ("x", Some("https://a.example:8/folder/x")),
            ("file:///etc/passwd", None),
            ("gopher://b.example/", None),
        ] {
            let resolved = resolve("https://a.example:8/folder/file?q=/1", location);
            assert_eq!(resolved.as_deref(), target, "{location}");
        }
    }
}
