//! The precisions of the kernels.

use crate::backend::{Precision, UnsupportedPrecision};

pub const PRECISIONS: &[Precision] = &[Precision::F32, Precision::Bf16, Precision::Int8];

/// # Errors
/// For f16, which no CPU computes in here.
pub fn kernel_precision(precision: Precision) -> Result<cloze_kernels::Precision, UnsupportedPrecision> {
    match precision {
        Precision::F32 => Ok(cloze_kernels::Precision::F32),
        Precision::Bf16 => Ok(cloze_kernels::Precision::Bf16),
        Precision::Int8 => Ok(cloze_kernels::Precision::Int8),
        requested @ Precision::F16 => Err(UnsupportedPrecision {
            requested,
            supported: PRECISIONS,
        }),
    }
}

/// The kernels' precision for the products of attention, which may be higher than the one of the options.
pub fn attention_precision(precision: Precision) -> cloze_kernels::Precision {
    kernel_precision(precision).unwrap_or(cloze_kernels::Precision::F32)
}
