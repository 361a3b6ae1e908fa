//! Requests to the hub, and what its answers mean.

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
/// A connection that is silent for this long is given up and, in a download, resumed.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Of a list of files, in bytes.
const INFO_BYTES_MAX: u64 = 16 << 20;
/// A model that was renamed answers with its new address.
const REDIRECTS_MAX: u32 = 5;

/// Speaks for one model.
pub struct Client<'a> {
    agent: Agent,
    settings: &'a Settings,
    name: &'a ModelName,
}

/// What a revision is: a commit and its files.
pub struct Info {
    pub commit: String,
    pub files: Vec<String>,
}

/// What the hub says of a file before it is downloaded.
pub struct Metadata {
    /// Names the content; a hash where it has a hash's form.
    pub etag: String,
    /// In bytes.
    pub size: u64,
}

/// The content of a file from some byte on.
pub struct Content {
    /// The byte that it begins with: 0 from a server that cannot begin elsewhere.
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
            // The token is for the hub, not for the storage that it sends us to.
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(Some(SILENCE_MAX))
            .build();
        Ok(Self {
            agent: config.new_agent(),
            settings,
            name,
        })
    }

    /// Asks which commit the revision is at, and which files it has.
    pub fn info(&self) -> Result<Info, HubError> {
        #[derive(Deserialize)]
        struct Answer {
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
        let reason = |reason: String| HubError::Answer {
            url: url.clone(),
            reason,
        };
        let body = response.body_mut().with_config().limit(INFO_BYTES_MAX).read_to_vec();
        let body = body.map_err(|e| self.unreachable(e))?;
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|e| reason(format!("this is not how the hub describes a model: {e}")))?;
        if !is_part(&answer.sha) {
            return Err(reason(format!("\"{}\" is not a commit", answer.sha)));
        }
        Ok(Info {
            commit: answer.sha,
            files: answer.siblings.into_iter().map(|sibling| sibling.rfilename).collect(),
        })
    }

    /// Asks what a file is. Its content may be elsewhere; what the hub itself says of it counts.
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
                // Not to storage, so to the model's new name.
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
                (Some(etag), Some(size)) => Ok(Metadata { etag, size }),
                _ => Err(HubError::Answer {
                    url,
                    reason: "the answer says neither what the file is nor how large (etag, content-length)".to_owned(),
                }),
            };
        }
        Err(HubError::Answer {
            url,
            reason: "it leads from one address to the next without end".to_owned(),
        })
    }

    /// Begins to read a file at byte `start`; `Err(Ok(_))` is a failure that may pass.
    pub fn content(&self, commit: &str, file: &str, start: u64) -> Result<Content, Failure> {
        let url = self.file_url(commit, file);
        let mut request = self
            .authorized(self.agent.get(&url))
            .header(header::ACCEPT_ENCODING, "identity");
        if start > 0 {
            request = request.header(header::RANGE, format!("bytes={start}-"));
        }
        let response = request.call().map_err(|e| Failure::Passing(e.to_string()))?;
        let status = response.status().as_u16();
        let begins_at = match status {
            200 => 0,
            206 => text(response.headers(), "content-range")
                .and_then(first_byte)
                .unwrap_or(0),
            // Of a mirror that changed its mind about the size: from the beginning, then.
            416 => return Err(Failure::Passing("it cannot be resumed".to_owned())),
            429 | 500..=599 => return Err(Failure::Passing(format!("status {status}"))),
            _ => return Err(Failure::Final(self.refused(&response, &url, Some(file)))),
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

    /// Where an answer leads; never to another host, since the token would go along.
    fn redirected(&self, url: &str, headers: &HeaderMap) -> Result<String, HubError> {
        let location = text(headers, "location").unwrap_or_default();
        if location.starts_with('/') && !location.starts_with("//") {
            return Ok(format!("{}{location}", origin(&self.settings.endpoint)));
        }
        match location.starts_with(&format!("{}/", origin(&self.settings.endpoint))) {
            true => Ok(location.to_owned()),
            false => Err(HubError::Answer {
                url: url.to_owned(),
                reason: format!("it leads to \"{location}\" without saying what the file is"),
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

    /// What a status that is not a success means, with the help of the hub's own code for it.
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
            // The hub answers 401 for what does not exist, so as not to tell what is private.
            (_, "RepoNotFound", _) | (401, _, _) | (404, _, None) => HubError::NoModel { name },
            (404, _, Some(file)) => HubError::NoFile {
                name,
                file: file.to_owned(),
            },
            (status, _, _) => HubError::Answer {
                url: url.to_owned(),
                reason: format!("the hub answers with status {status}; try again later"),
            },
        }
    }
}

/// Why content did not begin to flow.
pub enum Failure {
    /// Worth another attempt.
    Passing(String),
    /// Not worth one.
    Final(HubError),
}

/// A header's value, if it is text.
fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// `http://host:port` of an address.
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
