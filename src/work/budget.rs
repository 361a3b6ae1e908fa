//! The bound on one request's work.

/// The work of one request may not exceed its budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the work exceeds {max} units")]
pub struct TooMuchWork {
    pub max: u64,
}

/// Units of work that a request may still spend. A unit is one look-up in a vocabulary: 50 to 100 ns.
#[derive(Clone, Debug)]
pub struct WorkBudget {
    max: u64,
    left: u64,
}

impl WorkBudget {
    pub fn new(max: u64) -> Self {
        Self { max, left: max }
    }

    /// Takes `units` before the work is done.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn spend(&mut self, units: u64) -> Result<(), TooMuchWork> {
        self.left = self.left.checked_sub(units).ok_or(TooMuchWork { max: self.max })?;
        Ok(())
    }
}
