//! Rounding of f32 to bf16 and to 8-bit integers.

use crate::layout::INT8_MAX;

/// 1.5 · 2^23. Adding it leaves the rounded integer in the low bits, without a branch or a call, so that the compiler
/// vectorizes the loop around it.
pub const ROUND: f32 = 12_582_912.0;

/// The nearest bf16, ties to even, in the low half. NaN stays NaN.
#[inline(always)]
pub fn bf16_bits(value: f32) -> u32 {
    const NAN: u32 = 0x7fc0;
    if value.is_nan() {
        NAN
    } else {
        bf16_bits_of_number(value)
    }
}

/// The nearest bf16 of a value that is not NaN.
#[inline(always)]
pub fn bf16_bits_of_number(value: f32) -> u32 {
    let bits = value.to_bits();
    bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16
}

/// The scale that turns 8-bit integers back into `values`: the largest magnitude over 127. It is NaN if a value is not
/// finite, so that every result computed from it is NaN too.
#[inline(always)]
pub fn int8_scale(values: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let mut not_finite = [0.0f32; 16];
    let (chunks, rest) = values.as_chunks::<16>();
    for chunk in chunks {
        for n in 0..16 {
            lanes[n] = lanes[n].max(chunk[n].abs());
            not_finite[n] += chunk[n] * 0.0;
        }
    }
    for (n, value) in rest.iter().enumerate() {
        lanes[n] = lanes[n].max(value.abs());
        not_finite[n] += value * 0.0;
    }
    let largest = lanes.into_iter().fold(0.0, f32::max) + not_finite.into_iter().sum::<f32>();
    // Any scale serves a row of zeros.
    if largest == 0.0 { 1.0 } else { largest / INT8_MAX }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_to_nearest_even() {
        for (value, expected) in [
            (1.0f32, 0x3f80),
            (f32::from_bits(0x3f80_8000), 0x3f80),
            (f32::from_bits(0x3f81_8000), 0x3f82),
            (f32::from_bits(0x3f80_8001), 0x3f81),
            (-2.0, 0xc000),
            (f32::INFINITY, 0x7f80),
            (f32::NAN, 0x7fc0),
            (f32::from_bits(0x7fff_ffff), 0x7fc0),
        ] {
            assert_eq!(bf16_bits(value), expected, "{value}");
        }
    }
}
