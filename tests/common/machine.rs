//! Requirements of tests on this machine and this build, for the [`harness`](super::harness).

use super::harness::Requirement;

fn require(is_met: bool, otherwise: &str) -> Requirement {
    match is_met {
        true => Ok(()),
        false => Err(otherwise.to_owned()),
    }
}

/// No requirement.
pub fn nothing() -> Requirement {
    Ok(())
}

/// The CPU backend.
pub fn cpu() -> Requirement {
    require(cfg!(feature = "cpu"), "built without the CPU backend")
}

/// Fault injection in the library and in the binary.
pub fn failpoints() -> Requirement {
    require(cfg!(feature = "failpoints"), "built without --features failpoints")
}

/// An adapter; a software driver will do.
#[cfg(feature = "gpu")]
pub fn adapter() -> Requirement {
    require(!cloze::backend::gpu::adapters().is_empty(), "no GPU adapter")
}

/// An adapter whose memory a test may exhaust: that of a software driver, which belongs to the process.
#[cfg(feature = "gpu")]
pub fn software_adapter() -> Requirement {
    adapter()?;
    require(
        cloze::backend::gpu::adapters()[0].is_software(),
        "exhausts the memory of the GPU",
    )
}

/// An adapter that computes in f16.
#[cfg(feature = "gpu")]
pub fn f16() -> Requirement {
    use cloze::backend::{Precision, gpu};

    adapter()?;
    let precision = gpu::open(None).and_then(|device| device.precision(Some(Precision::F16)));
    require(precision.is_ok(), "the GPU does not compute in f16")
}

/// No GPU backend, so no adapter.
#[cfg(not(feature = "gpu"))]
mod without_gpu {
    use super::{Requirement, require};

    const REASON: &str = "built without the GPU backend";

    pub fn adapter() -> Requirement {
        require(false, REASON)
    }

    pub fn f16() -> Requirement {
        require(false, REASON)
    }
}
#[cfg(not(feature = "gpu"))]
pub use without_gpu::{adapter, f16};
