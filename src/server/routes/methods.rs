//! Routes by method that tell in `Allow` what they take, as a 405 must.

use poem::endpoint::BoxEndpoint;
use poem::error::{MethodNotAllowedError, ResponseError};
use poem::{EndpointExt, IntoEndpoint, Response, RouteMethod};

use crate::server::ApiError;

/// `GET`, and with it `HEAD`.
pub fn get<E: IntoEndpoint<Endpoint: 'static>>(endpoint: E) -> BoxEndpoint<'static, Response> {
    only(poem::get(endpoint), "GET, HEAD")
}

/// `POST`.
pub fn post<E: IntoEndpoint<Endpoint: 'static>>(endpoint: E) -> BoxEndpoint<'static, Response> {
    only(poem::post(endpoint), "POST")
}

/// `GET` for one endpoint, `POST` for another.
pub fn get_post<G, P>(get: G, post: P) -> BoxEndpoint<'static, Response>
where
    G: IntoEndpoint<Endpoint: 'static>,
    P: IntoEndpoint<Endpoint: 'static>,
{
    only(poem::get(get).post(post), "GET, HEAD, POST")
}

fn only(methods: RouteMethod, allow: &'static str) -> BoxEndpoint<'static, Response> {
    let refuse = move |_: MethodNotAllowedError| async move { ApiError::method_not_allowed(allow).as_response() };
    methods.catch_error(refuse).boxed()
}
