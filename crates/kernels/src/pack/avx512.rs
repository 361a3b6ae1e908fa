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

/// From front to back: row by row, lines that follow each other lie far apart.
#[target_feature(enable = "avx512f")]
pub fn f32(rows: Rows<'_>, packed: &mut [u32]) {
    for (group, start) in (0..rows.inputs).step_by(GROUP).enumerate() {
        let (lines, _) = packed[group * rows.stored * GROUP..].as_chunks_mut::<GROUP>();
        for (values, line) in rows.iter().zip(lines) {
            let values = load(values, start);
            // SAFETY: a line is 64 bytes.
            unsafe { _mm512_storeu_ps(line.as_mut_ptr().cast(), values) };
        }
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
pub fn bf16(rows: Rows<'_>, packed: &mut [u32]) {
    let put = |place: &mut [u32; GROUP], low, high| {
        let pairs = _mm512_cvtne2ps_pbh(high, low);
        // SAFETY: 64 bytes in which every bit pattern is valid.
        *place = unsafe { std::mem::transmute::<__m512bh, [u32; GROUP]>(pairs) };
    };
    for (row, values) in rows.iter().enumerate() {
        let (whole, rest) = values.as_chunks::<{ 2 * GROUP }>();
        for (group, values) in whole.iter().enumerate() {
            // SAFETY: two halves of 32 values.
            let (low, high) = unsafe {
                (
                    _mm512_loadu_ps(values.as_ptr()),
                    _mm512_loadu_ps(values.as_ptr().add(GROUP)),
                )
            };
            put(line(packed, rows.stored, group, row), low, high);
        }
        if !rest.is_empty() {
            let place = line(packed, rows.stored, whole.len(), row);
            put(place, load(rest, 0), load(rest, GROUP));
        }
    }
}

/// As [`scale_of`](super::scale_of).
#[target_feature(enable = "avx512f")]
fn scale_of(values: &[f32]) -> f32 {
    // As integers, the bits of magnitudes are in the same order, with infinity and what is no number above all others.
    let mut largest = [_mm512_setzero_si512(); 4];
    let magnitude = _mm512_set1_epi32(i32::MAX);
    let (lines, rest) = values.as_chunks::<{ 4 * GROUP }>();
    for line in lines {
        for (part, largest) in largest.iter_mut().enumerate() {
            let bits = _mm512_castps_si512(whole(line, part));
            *largest = _mm512_max_epu32(*largest, _mm512_and_si512(bits, magnitude));
        }
    }
    for (part, largest) in largest.iter_mut().enumerate() {
        let bits = _mm512_castps_si512(load(rest, part * GROUP));
        *largest = _mm512_max_epu32(*largest, _mm512_and_si512(bits, magnitude));
    }
    let [a, b, c, d] = largest;
    let largest = _mm512_reduce_max_epu32(_mm512_max_epu32(_mm512_max_epu32(a, b), _mm512_max_epu32(c, d)));
    match f32::from_bits(largest) {
        0.0 => 1.0,
        largest if largest.is_finite() => largest / INT8_MAX,
        _ => f32::NAN,
    }
}

/// 16 of a line's 64 values.
#[target_feature(enable = "avx512f")]
fn whole(line: &[f32; 4 * GROUP], part: usize) -> __m512 {
    // SAFETY: `part` is below 4.
    unsafe { _mm512_loadu_ps(line.as_ptr().add(part * GROUP)) }
}

#[target_feature(enable = "avx512f")]
pub fn int8(rows: Rows<'_>, packed: &mut [u32], scales: &mut [f32]) {
    let round = _mm512_set1_ps(ROUND + ZERO_POINT as f32);
    // Not fused, as elsewhere: the same values at every level.
    let bytes = |values: __m512, inverse: __m512| {
        let bits = _mm512_castps_si512(_mm512_add_ps(_mm512_mul_ps(values, inverse), round));
        _mm512_cvtepi32_epi8(bits)
    };
    for (row, values) in rows.iter().enumerate() {
        let scale = scale_of(values);
        scales[row] = scale;
        let inverse = _mm512_set1_ps(1.0 / scale);
        let (lines, rest) = values.as_chunks::<{ 4 * GROUP }>();
        for (group, values) in lines.iter().enumerate() {
            let (quarters, _) = line(packed, rows.stored, group, row).as_chunks_mut::<4>();
            for (part, quarter) in quarters.iter_mut().enumerate() {
                // SAFETY: four words are 16 bytes.
                unsafe { _mm_storeu_si128(quarter.as_mut_ptr().cast(), bytes(whole(values, part), inverse)) };
            }
        }
        if !rest.is_empty() {
            let (quarters, _) = line(packed, rows.stored, lines.len(), row).as_chunks_mut::<4>();
            for (part, quarter) in quarters.iter_mut().enumerate() {
                // SAFETY: as above.
                unsafe { _mm_storeu_si128(quarter.as_mut_ptr().cast(), bytes(load(rest, part * GROUP), inverse)) };
            }
        }
    }
}
