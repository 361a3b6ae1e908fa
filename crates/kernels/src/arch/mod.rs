//! Micro-kernels, one file for each instruction set.
//!
//! | file | instruction set |
//! |---|---|
//! | `generic` | any CPU: loops that the compiler vectorizes |
//! | `avx2` | AVX2 and FMA |
//! | `avx512` | AVX-512, with VNNI for 8 bits and `avx512_bf16` for bf16 |
//! | `amx` | tiles of AMX, with their own packing |
//! | `neon` | NEON, with `dotprod` for 8 bits |
//!
//! `half_panel` has the loops of `avx2` and `neon`.

#[cfg(target_arch = "x86_64")]
pub mod amx;
#[cfg(all(test, target_arch = "x86_64", target_os = "linux"))]
mod amx_tests;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod generic;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod half_panel;
#[cfg(target_arch = "aarch64")]
mod neon;

use crate::isa::Isa;
use crate::kernel::MicroKernel;
use crate::layout::{K_BLOCK_LINES, Line, NR, Packing, Precision};

/// The micro-kernel for `precision`: the best that `isa` has instructions for.
pub fn micro_kernel(isa: Isa, precision: Precision) -> &'static dyn MicroKernel {
    #[cfg(target_arch = "x86_64")]
    match precision {
        Precision::F32 if isa >= Isa::Amx => return &amx::F32,
        Precision::Bf16 if isa >= Isa::Amx => return &amx::Bf16,
        Precision::Int8 if isa >= Isa::Amx => return &amx::Int8,
        Precision::F32 if isa >= Isa::Avx512 => return &avx512::F32,
        Precision::Bf16 if isa.multiplies_bf16() => return &avx512::Bf16,
        Precision::Bf16 if isa >= Isa::Avx512 => return &avx512::WidenedBf16,
        Precision::Int8 if isa >= Isa::Avx512Vnni => return &avx512::Int8,
        Precision::Int8 if isa >= Isa::Avx512 => return &avx512::WidenedInt8,
        Precision::F32 if isa >= Isa::Avx2 => return &avx2::F32,
        Precision::Bf16 if isa >= Isa::Avx2 => return &avx2::Bf16,
        Precision::Int8 if isa >= Isa::Avx2 => return &avx2::Int8,
        _ => {}
    }
    #[cfg(target_arch = "aarch64")]
    match precision {
        Precision::F32 if isa >= Isa::Neon => return &neon::F32,
        Precision::Bf16 if isa >= Isa::Neon => return &neon::Bf16,
        Precision::Int8 if isa >= Isa::NeonDotprod => return &neon::Int8,
        _ => {}
    }
    let _ = isa;
    match precision {
        Precision::F32 => &generic::F32,
        Precision::Bf16 => &generic::Bf16,
        Precision::Int8 => &generic::Int8,
    }
}

/// Configured tile registers.
#[cfg(target_arch = "x86_64")]
pub type Tiles = amx::Configured;
/// No CPU of this architecture has tile registers.
#[cfg(not(target_arch = "x86_64"))]
pub type Tiles = std::convert::Infallible;

/// Configures the tile registers if a micro-kernel with this packing uses them.
pub fn tiles(packing: Packing) -> Option<Tiles> {
    #[cfg(target_arch = "x86_64")]
    if packing == Packing::AmxTiles {
        return Some(amx::Configured::new());
    }
    let _ = packing;
    None
}

/// Transposes the first 16 or all 32 columns of a K-block of a panel, `[16][32]` elements, to rows of 16.
pub fn transpose_k_block(isa: Isa, columns: &[Line], rows: &mut [Line]) {
    assert!(columns.len() == K_BLOCK_LINES && (rows.len() == NR / 2 || rows.len() == NR));
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx512 {
        // SAFETY: an `Isa` beyond `Portable` exists only if the CPU has the instructions.
        return unsafe { avx512::transpose_k_block(columns, rows) };
    }
    let _ = isa;
    for (step, lines) in columns.chunks_exact(2).enumerate() {
        for (n, row) in rows.iter_mut().enumerate() {
            row.0[step] = lines[n / 16].0[n % 16];
        }
    }
}
