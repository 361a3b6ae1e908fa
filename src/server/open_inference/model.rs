//! The model's name and version in paths.

use poem::Request;
use poem::http::StatusCode;

use crate::server::app::App;
use crate::server::error::ApiError;
use crate::sys::excerpt;

/// The only version of the model.
pub const VERSION: &str = "1";

/// Refuses a path that names another model or another version.
///
/// # Errors
/// 404, with the names that exist.
pub fn check_model(request: &Request, app: &App) -> Result<(), ApiError> {
    let ours = &app.about.model_name;
    // A parameter that is not UTF-8 is absent too, so the path decides if there is a version.
    let name = request.raw_path_param("name").unwrap_or_default();
    let version = match request.uri().path().contains("/versions/") {
        true => request.raw_path_param("version").unwrap_or_default(),
        false => VERSION,
    };
    let is_ours = name == ours || Some(name) == app.about.hub_name.as_deref();
    let shown = (excerpt::name(name), excerpt::name(version));
    let message = match (is_ours, version == VERSION) {
        (true, true) => return Ok(()),
        (false, _) => format!("There is no model {:?} here; this server has {ours:?}.", shown.0),
        (_, false) => format!(
            "The model {ours:?} has no version {:?}; its only version is {VERSION:?}.",
            shown.1
        ),
    };
    Err(ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message))
}
