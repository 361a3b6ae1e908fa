//! HTTP requests to the hub, and errors from their responses.

use std::io::Read;
use std::time::Duration;

use serde::Deserialize;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, Response, Uri, header};
use ureq::{Agent, Body};

use super::name::is_part;
use super::{HubError, ModelName, Settings};
use crate::sys::crypto;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Limit on one read. A download that exceeds it is resumed on a new connection.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Limit on the response that lists the files of a model.
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
            .max_redirects(REDIRECTS_MAX)
            // The token must not reach the storage servers that the hub redirects to.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(Some(READ_TIMEOUT))
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
        let url = format!(
            "{}/api/models/{}/revision/{revision}",
            self.settings.endpoint,
            self.name.id()
        );
        let mut response = self
            .authorized(self.agent.get(&url))
            .call()
            .map_err(|e| self.unreachable(e))?;
        if !response.status().is_success() {
            return Err(self.refused(&response, &url, None));
        }
        let reason = |reason: String| HubError::Response {
            url: url.clone(),
            reason,
        };
        let body = response.body_mut().with_config().limit(INFO_BYTES_MAX).read_to_vec();
        let body = body.map_err(|e| self.unreachable(e))?;
        let info: Body = serde_json::from_slice(&body)
            .map_err(|e| reason(format!("the response does not describe a model: {e}")))?;
        if !is_part(&info.sha) {
            return Err(reason(format!("\"{}\" is not a commit id", info.sha)));
        }
        Ok(Info {
            commit: info.sha,
            files: info.siblings.into_iter().map(|sibling| sibling.rfilename).collect(),
        })
    }

    /// Requests etag and size of a file. The hub redirects to a storage server; its own headers, not those of the
    /// storage server, describe the file.
    pub fn metadata(&self, commit: &str, file: &str) -> Result<Metadata, HubError> {
        let mut url = self.file_url(commit, file);
        for _ in 0..=REDIRECTS_MAX {
            let request = self.authorized(self.agent.head(&url)).config();
            let request = request.max_redirects(0).max_redirects_will_error(false).build();
            let response = request
                .header(header::ACCEPT_ENCODING, "identity")
                .call()
                .map_err(|e| self.unreachable(e))?;
            let (status, headers) = (response.status(), response.headers());
            let etag = text(headers, "x-linked-etag").or_else(|| text(headers, "etag"));
            let size = text(headers, "x-linked-size").or_else(|| text(headers, "content-length"));
            if status.is_redirection() && headers.get("x-linked-etag").is_none() {
                // A redirect to storage has the header; this one leads to the model's new name.
                url = self.redirected(&url, headers)?;
                continue;
            }
            if !(status.is_success() || status.is_redirection()) {
                return Err(self.refused(&response, &url, Some(file)));
            }
            let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned());
            return match (
                etag.filter(|etag| is_part(etag)),
                size.and_then(|size| size.parse().ok()),
            ) {
                (Some(etag), Some(bytes)) => Ok(Metadata { etag, bytes }),
                _ => Err(HubError::Response {
                    url,
                    reason: "the response lacks etag or content-length".to_owned(),
                }),
            };
        }
        Err(HubError::Response {
            url,
            reason: "too many redirects".to_owned(),
        })
    }

    /// Requests the content of a file from byte `start` on.
    pub fn content(&self, commit: &str, file: &str, start: u64) -> Result<Content, Failure> {
        let url = self.file_url(commit, file);
        let mut request = self
            .authorized(self.agent.get(&url))
            .header(header::ACCEPT_ENCODING, "identity");
        if start > 0 {
            request = request.header(header::RANGE, format!("bytes={start}-"));
        }
        let response = request.call().map_err(|e| Failure::Transient(e.to_string()))?;
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

    fn file_url(&self, commit: &str, file: &str) -> String {
        format!("{}/{}/resolve/{commit}/{file}", self.settings.endpoint, self.name.id())
    }

    fn authorized<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.settings.token {
            Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    /// Target of a redirect. Other hosts are refused: the request carries the token.
    fn redirected(&self, url: &str, headers: &HeaderMap) -> Result<String, HubError> {
        let location = text(headers, "location").unwrap_or_default();
        if location.starts_with('/') && !location.starts_with("//") {
            return Ok(format!("{}{location}", origin(&self.settings.endpoint)));
        }
        match location.starts_with(&format!("{}/", origin(&self.settings.endpoint))) {
            true => Ok(location.to_owned()),
            false => Err(HubError::Response {
                url: url.to_owned(),
                reason: format!("redirect to \"{location}\" without the headers that describe the file"),
            }),
        }
    }

    fn unreachable(&self, error: ureq::Error) -> HubError {
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

/// `http://host:port` of a URL.
fn origin(url: &str) -> String {
    let uri: Uri = url.parse().unwrap_or_default();
    let scheme = uri.scheme_str().unwrap_or("https");
    format!(
        "{scheme}://{}",
        uri.authority().map_or("", |authority| authority.as_str())
    )
}

/// The first byte of `bytes 100-199/200`.
fn first_byte(range: &str) -> Option<u64> {
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}
