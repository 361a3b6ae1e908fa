//! The threads and the instruction set of a worker, and the precisions that they are faster in.

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};

use cloze_kernels::{Context, Isa, Pool};

use super::precision::kernel_precision;
use crate::backend::Precision;

/// The environment variable that selects a lower instruction set than the CPU has.
pub const FEATURES_VARIABLE: &str = "CLOZE_CPU_FEATURES";

/// The threads and the instruction set of one worker.
///
/// Burn's operations carry no such context, so it is a thread-local of the worker's thread while [`run`](Self::run)
/// runs.
pub struct Compute {
    pool: Pool,
    isa: Isa,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Compute>>> = const { RefCell::new(None) };
}

impl Compute {
    /// `threads` threads, including the one that calls [`run`](Self::run), with the CPU's best instruction set or the
    /// one that [`FEATURES_VARIABLE`] names.
    ///
    /// # Errors
    /// One sentence, if the threads cannot be started or the CPU lacks the instruction set.
    pub fn new(threads: usize) -> Result<Arc<Self>, String> {
        Self::with_isa(threads, selected_isa()?)
    }

    pub(super) fn with_isa(threads: usize, isa: Isa) -> Result<Arc<Self>, String> {
        let pool = Pool::new(threads).map_err(|e| e.to_string())?;
        Ok(Arc::new(Self { pool, isa }))
    }

    /// This thread computes so from now on, as in [`run`](Self::run).
    #[cfg(test)]
    pub(super) fn enter(self: &Arc<Self>) -> Context<'_> {
        CURRENT.set(Some(Arc::clone(self)));
        self.context()
    }

    /// Runs `work`, which computes with these threads and instructions.
    pub fn run<R>(self: &Arc<Self>, work: impl FnOnce() -> R) -> R {
        /// Restores the previous context, also if `work` panics.
        struct Restore(Option<Arc<Compute>>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0.take());
            }
        }
        let _restore = Restore(CURRENT.replace(Some(Arc::clone(self))));
        work()
    }

    fn context(&self) -> Context<'_> {
        let Self { pool, isa } = self;
        Context { pool, isa: *isa }
    }

    /// The instruction set in use, as the user reads it.
    pub fn features(&self) -> String {
        self.isa.to_string()
    }

    /// True if `precision` is f32, or faster than f32 with these instructions.
    pub fn gains_from(&self, precision: Precision) -> bool {
        precision == Precision::F32 || is_faster_than_f32(self.isa, precision)
    }
}

fn selected_isa() -> Result<Isa, String> {
    match std::env::var(FEATURES_VARIABLE) {
        Ok(name) if !name.is_empty() => Isa::named(&name).map_err(|reason| format!("{FEATURES_VARIABLE}: {reason}")),
        _ => Ok(Isa::detected()),
    }
}

fn is_faster_than_f32(isa: Isa, precision: Precision) -> bool {
    kernel_precision(precision).is_ok_and(|precision| isa.is_faster_than_f32(precision))
}

/// The fastest precision with the instructions in use whose top-1 agreement with f32 is at least 99 %
/// (docs/performance.md, "Accuracy of the precisions").
///
/// # Errors
/// As [`Compute::new`], if the CPU lacks the selected instruction set.
pub fn automatic_precision() -> Result<Precision, String> {
    /// The precisions that agree so far.
    const AGREEING: [Precision; 1] = [Precision::Bf16];
    let isa = selected_isa()?;
    let faster = AGREEING
        .into_iter()
        .find(|&precision| is_faster_than_f32(isa, precision));
    Ok(faster.unwrap_or_default())
}

/// Calls `work` with the context of [`Compute::run`], or else with this thread alone and the best instruction set.
pub(super) fn with_context<R>(work: impl FnOnce(Context<'_>) -> R) -> R {
    static ALONE: OnceLock<Compute> = OnceLock::new();
    match CURRENT.with_borrow(Option::clone) {
        Some(compute) => work(compute.context()),
        None => {
            let alone = || Compute {
                pool: Pool::new(1).expect("the calling thread is there"),
                isa: Isa::detected(),
            };
            work(ALONE.get_or_init(alone).context())
        }
    }
}

/// The CPU's best instruction set, as the user reads it.
pub fn cpu_features() -> String {
    Isa::detected().to_string()
}
