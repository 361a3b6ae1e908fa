//! Rows packed with AVX-512, a line at a time. Values beyond a row's end are loaded as zeros, without being touched.

use std::arch::x86_64::*;

use super::{GROUP, INT8_MAX, ROUND, Rows, ZERO_POINT};

/// Up to 16 values from `start` on, as many as there are.
#[target_feature(enable = "avx512f")]
fn load(values: &[f32], start: usize) -> __m512 {
    let count = values.len().saturating_sub(start).min(GROUP);
    let lanes = ((1u32 << count) - 1) as __mmask16;
    // SAFETY: `count` values from `start` on are there, and no others are touched.
    unsafe { _mm512_maskz_loadu_ps(lanes, values.as_ptr().wrapping_add(start)) }
}

/// The line of a row in a group.
fn line(packed: &mut [u32], stored: usize, group: usize, row: usize) -> &mut [u32; GROUP] {
    let place = &mut packed[(group * stored + row) * GROUP..];
    place.first_chunk_mut().expect("a line of a row")
}

#[target_feature(enable = "avx512f,avx512bf16")]
pub fn bf16(rows: Rows<'_>, packed: &mut [u32]) {
    for (row, values) in rows.iter().enumerate() {
        for (group, start) in (0..values.len()).step_by(2 * GROUP).enumerate() {
            let pairs = _mm512_cvtne2ps_pbh(load(values, start + GROUP), load(values, start));
            let line = line(packed, rows.stored, group, row);
            // SAFETY: 64 bytes in which every bit pattern is valid.
            *line = unsafe { std::mem::transmute::<__m512bh, [u32; GROUP]>(pairs) };
        }
    }
}

/// As [`scale_of`](super::scale_of).
#[target_feature(enable = "avx512f")]
fn scale_of(values: &[f32]) -> f32 {
    let mut largest = [_mm512_setzero_ps(); 4];
    let mut is_number = true;
    let infinity = _mm512_set1_ps(f32::INFINITY);
    for start in (0..values.len()).step_by(4 * GROUP) {
        for (part, largest) in largest.iter_mut().enumerate() {
            let magnitude = _mm512_abs_ps(load(values, start + part * GROUP));
            is_number &= _mm512_cmp_ps_mask::<_CMP_LT_OQ>(magnitude, infinity) == !0;
            *largest = _mm512_max_ps(*largest, magnitude);
        }
    }
    let [a, b, c, d] = largest;
    match _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, d))) {
        _ if !is_number => f32::NAN,
        0.0 => 1.0,
        largest => largest / INT8_MAX,
    }
}

#[target_feature(enable = "avx512f")]
pub fn int8(rows: Rows<'_>, packed: &mut [u32], scales: &mut [f32]) {
    let round = _mm512_set1_ps(ROUND + ZERO_POINT as f32);
    for (row, values) in rows.iter().enumerate() {
        let scale = scale_of(values);
        scales[row] = scale;
        let inverse = _mm512_set1_ps(1.0 / scale);
        for (group, start) in (0..values.len()).step_by(4 * GROUP).enumerate() {
            let (quarters, _) = line(packed, rows.stored, group, row).as_chunks_mut::<4>();
            for (part, quarter) in quarters.iter_mut().enumerate() {
                // Not fused, as elsewhere: the same values at every level.
                let scaled = _mm512_mul_ps(load(values, start + part * GROUP), inverse);
                let bits = _mm512_castps_si512(_mm512_add_ps(scaled, round));
                // SAFETY: four words are 16 bytes.
                unsafe { _mm_storeu_si128(quarter.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(bits)) };
            }
        }
    }
}
