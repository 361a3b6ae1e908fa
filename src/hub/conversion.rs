//! Conversions of weights to safetensors, which the hub's conversion service proposes as pull requests.

use serde::Deserialize;

use super::HubError;
use super::client::Client;

/// The service's account, and the title of its pull requests. Another user may open one of the same title.
const AUTHOR: &str = "SFconvertbot";
const TITLE: &str = "Adding `safetensors` variant of this model";
/// Limit on the pages of open pull requests that are read.
const PAGES_MAX: usize = 10;

#[derive(Deserialize)]
struct Page {
    count: usize,
    start: usize,
    discussions: Vec<Discussion>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Discussion {
    num: u64,
    title: String,
    status: String,
    is_pull_request: bool,
    author: Option<Author>,
}

#[derive(Deserialize)]
struct Author {
    name: String,
}

impl Discussion {
    fn is_conversion(&self) -> bool {
        let is_by_service = self.author.as_ref().is_some_and(|author| author.name == AUTHOR);
        self.is_pull_request && self.status == "open" && is_by_service && self.title == TITLE
    }
}

impl Client<'_> {
    /// The revision of the model's open pull request from the conversion service, such as `refs/pr/3`.
    pub fn conversion(&self) -> Result<Option<String>, HubError> {
        for page in 0..PAGES_MAX {
            let query = format!("type=pull_request&status=open&p={page}");
            let Page {
                count,
                start,
                discussions,
            } = self.api(&format!("discussions?{query}"), "list the model's pull requests")?;
            if let Some(found) = discussions.iter().find(|discussion| discussion.is_conversion()) {
                return Ok(Some(format!("refs/pr/{}", found.num)));
            }
            if discussions.is_empty() || start.saturating_add(discussions.len()) >= count {
                break;
            }
        }
        Ok(None)
    }
}
