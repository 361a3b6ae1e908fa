//! Resources that an answer holds until it is sent.

use std::any::Any;
use std::fmt::{Debug, Formatter};
use std::sync::Arc;

/// In the extensions of a response: a value that the connection drops when the socket has taken the whole response, or
/// the connection ends.
#[derive(Clone)]
pub struct Held(#[expect(dead_code, reason = "its drop is its use")] Arc<dyn Any + Send + Sync>);

impl Held {
    pub fn new(value: impl Send + Sync + 'static) -> Self {
        Self(Arc::new(value))
    }
}

impl Debug for Held {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("Held")
    }
}
