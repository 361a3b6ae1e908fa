//! One row of the route table: a path, its methods, and the access rule of each method.

use poem::error::{MethodNotAllowedError, ResponseError};
use poem::http::Method;
use poem::{Endpoint, EndpointExt, IntoEndpoint, Request, Response, RouteMethod};

use super::error::{ApiError, respond};
use super::middleware::auth;
use crate::sys::excerpt;

/// Access rule of a method while the server has an API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Every client: orchestrators and browsers cannot send a key with their first request.
    Open,
    /// Clients with the key. The rule of every method that a row does not have.
    Key,
}

/// One row of the route table.
pub struct RouteRow {
    path: &'static str,
    handlers: RouteMethod,
    get: Option<Access>,
    post: Option<Access>,
}

impl RouteRow {
    /// A row without methods; `path` is a pattern in poem's notation, such as `/v2/models/:name`.
    pub fn new(path: &'static str) -> Self {
        Self {
            path,
            handlers: RouteMethod::new(),
            get: None,
            post: None,
        }
    }

    /// Adds `GET`, and with it `HEAD`.
    pub fn get(mut self, access: Access, handler: impl IntoEndpoint<Endpoint: 'static>) -> Self {
        self.handlers = self.handlers.get(handler);
        self.get = Some(access);
        self
    }

    /// Adds `POST`.
    pub fn post(mut self, access: Access, handler: impl IntoEndpoint<Endpoint: 'static>) -> Self {
        self.handlers = self.handlers.post(handler);
        self.post = Some(access);
        self
    }

    pub fn path(&self) -> &'static str {
        self.path
    }

    /// The access rule of each method.
    #[cfg(test)]
    pub fn methods(&self) -> impl Iterator<Item = (Method, Access)> {
        let reads = self.get.map(|access| [(Method::GET, access), (Method::HEAD, access)]);
        let writes = self.post.map(|access| (Method::POST, access));
        reads.into_iter().flatten().chain(writes)
    }

    /// The endpoint of this row: checks the access rule, refuses a query in the path of a `POST`, answers other methods
    /// with 405 and `Allow`, and turns every error into a response.
    pub fn into_endpoint(self) -> impl Endpoint<Output = Response> + 'static {
        let Self {
            handlers, get, post, ..
        } = self;
        let allow = match (get, post) {
            (Some(_), Some(_)) => "GET, HEAD, POST",
            (Some(_), None) => "GET, HEAD",
            (None, _) => "POST",
        };
        let refuse = move |_: MethodNotAllowedError| async move { ApiError::method_not_allowed(allow).as_response() };
        let handlers = handlers.catch_error(refuse);
        handlers.around(move |handlers, request: Request| async move {
            let access = match *request.method() {
                Method::GET | Method::HEAD => get,
                Method::POST => post,
                _ => None,
            };
            let allowed = match access {
                Some(Access::Open) => Ok(()),
                Some(Access::Key) | None => auth::require_key(&request),
            };
            let allowed = allowed.and_then(|()| match access {
                Some(_) if *request.method() == Method::POST => check_query(&request),
                _ => Ok(()),
            });
            let response = match allowed {
                Ok(()) => handlers.call(request).await,
                Err(error) => Err(error.into()),
            };
            match response {
                Ok(response) => Ok(response),
                Err(error) => Ok(respond(error).await),
            }
        })
    }
}

/// Refuses a request with query parameters: it would be answered as if they were not there.
fn check_query(request: &Request) -> Result<(), ApiError> {
    let Some(query) = request.uri().query().filter(|query| !query.is_empty()) else {
        return Ok(());
    };
    let name = query.split(['=', '&']).next().unwrap_or_default();
    let message = format!(
        "The path has the query parameter {:?}, and this route reads none; send parameters in a JSON body.",
        excerpt::name(name)
    );
    Err(ApiError::bad_request("bad_request", message))
}
