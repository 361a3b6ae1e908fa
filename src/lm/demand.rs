//! Lets a model see that no request waits for a batch any more.

use std::sync::{Arc, Weak};

/// Held while a request waits for its scores.
#[derive(Debug, Default)]
pub struct DemandGuard(Arc<()>);

/// Says if a request still waits: until its [`DemandGuard`] is dropped.
#[derive(Clone, Debug)]
pub struct Demand(Weak<()>);

impl DemandGuard {
    pub fn demand(&self) -> Demand {
        Demand(Arc::downgrade(&self.0))
    }
}

impl Demand {
    /// False once all of `demand` have ended. A batch that states no demand is needed.
    pub fn any_waits(demand: &[Self]) -> bool {
        demand.is_empty() || demand.iter().any(|Self(request)| request.strong_count() > 0)
    }
}
