//! Paths that clients write in another form than the route table.

use poem::Request;
use poem::http::Uri;
use poem::http::uri::PathAndQuery;

use crate::server::app::About;

const MODELS: &str = "/v2/models/";
/// Parts of a path that may follow the name of a model.
const AFTER_NAME: [&str; 4] = ["versions", "ready", "config", "infer"];

/// Rewrites the path of a request into the form of the route table: without slashes at its end, and with `/` as `%2F`
/// in the name of a model of the hub.
pub fn normalize(request: &mut Request, about: &About) {
    let uri = request.uri();
    let Some(path) = normalized(uri.path(), about) else {
        return;
    };
    let path_and_query = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let mut parts = uri.clone().into_parts();
    let Ok(path_and_query) = PathAndQuery::try_from(path_and_query) else {
        return;
    };
    parts.path_and_query = Some(path_and_query);
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

/// `None` if the path is in the form of the route table.
fn normalized(path: &str, about: &About) -> Option<String> {
    let mut normalized = match path.trim_end_matches('/') {
        "" => "/".to_owned(),
        trimmed => trimmed.to_owned(),
    };
    if let Some(rest) = normalized.strip_prefix(MODELS)
        && let Some((organization, rest)) = rest.split_once('/')
    {
        let name = rest.split('/').next().unwrap_or_default();
        let is_hub_name = about.hub_name.as_ref().is_some_and(|hub_name| {
            let parts = hub_name.split_once('/');
            parts == Some((organization, name))
        });
        if is_hub_name || (organization != about.model_name && !AFTER_NAME.contains(&name)) {
            normalized = format!("{MODELS}{organization}%2F{rest}");
        }
    }
    (normalized != path).then_some(normalized)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::tests::{MINUTE, app};

    #[test]
    fn paths_take_the_form_of_the_route_table() {
        let about = &app(|_| {}, 1, MINUTE).about;
        for (path, expected) in [
            ("/", "/"),
            ("//", "/"),
            ("/health/", "/health"),
            ("/v1/fill-mask//", "/v1/fill-mask"),
            ("//health", "//health"),
            ("/v2/models/tiny/", "/v2/models/tiny"),
            ("/v2/models/tiny/versions/1/infer", "/v2/models/tiny/versions/1/infer"),
            ("/v2/models/tiny/other", "/v2/models/tiny/other"),
            ("/v2/models/acme/tiny-bert", "/v2/models/acme%2Ftiny-bert"),
            (
                "/v2/models/acme/tiny-bert/versions/1/ready/",
                "/v2/models/acme%2Ftiny-bert/versions/1/ready",
            ),
            ("/v2/models/acme%2Ftiny-bert/infer", "/v2/models/acme%2Ftiny-bert/infer"),
            ("/v2/models/some/other/infer", "/v2/models/some%2Fother/infer"),
        ] {
            assert_eq!(normalized(path, about).as_deref().unwrap_or(path), expected, "{path}");
        }
    }

    /// The organization and the model may have the same name.
    #[test]
    fn the_name_on_the_hub_takes_precedence_over_the_served_name() {
        let mut about = app(|_| {}, 1, MINUTE).about.clone();
        about.hub_name = Some("tiny/ready".to_owned());
        assert_eq!(
            normalized("/v2/models/tiny/ready/infer", &about).unwrap(),
            "/v2/models/tiny%2Fready/infer"
        );
    }
}
