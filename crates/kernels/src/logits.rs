//! The readout of logits: the sum of the softmax over the vocabulary, and the largest logits.
//!
//! One thread reads a row twice, the second time from its cache.

use crate::context::Context;
use crate::disjoint::Disjoint;
use crate::isa::for_each_isa;
use crate::math::exp;

/// Numbers of a row's summary before its largest logits, see [`summarize_logits`].
pub const LOGIT_STATISTICS: usize = 4;

/// Lanes of each loop: the f32 of an AVX-512 register.
const LANES: usize = 16;

/// Values that are compared at once with the smallest of the largest so far. Almost no block has a larger one.
const SEARCHED: usize = 4 * LANES;

/// Values that are summed in f32. Over tens of thousands of small terms f32 loses the last digits, so the sums of
/// blocks are added in f64.
const SUMMED: usize = 16 * LANES;

/// Writes `4 + 2 * top` numbers for each row of `logits` `[rows, columns]`: the largest logit; the sum of `exp(logit -
/// largest)` in two parts, the second being the rounding error of the first; the number of logits that are NaN or
/// +infinite; and the `top` largest logits in descending order, each with its index. Of equal logits the one with the
/// smallest index comes first.
///
/// # Panics
/// If the sizes do not match, or if `top` is more than `columns`.
pub fn summarize_logits(context: Context<'_>, logits: &[f32], columns: usize, top: usize, summaries: &mut [f32]) {
    let len = LOGIT_STATISTICS + 2 * top;
    assert!(top <= columns && logits.len().is_multiple_of(columns));
    let rows = logits.len() / columns;
    assert!(summaries.len() == rows * len);
    let summaries = Disjoint::new(summaries);
    context.pool.run(rows, |row| {
        // SAFETY: each task has its own row.
        let summary = unsafe { summaries.slice(row * len..(row + 1) * len) };
        summarize_row(context.isa, &logits[row * columns..(row + 1) * columns], summary);
    });
}

#[inline(always)]
fn summarize_body<const FMA: bool>(row: &[f32], summary: &mut [f32]) {
    let (statistics, top) = summary.split_at_mut(LOGIT_STATISTICS);
    let (largest, not_finite) = search(row, top.as_chunks_mut().0);
    let sum = sum_of_exp::<FMA>(row, largest);
    let rounded = sum as f32;
    statistics.copy_from_slice(&[largest, rounded, (sum - f64::from(rounded)) as f32, not_finite as f32]);
}

for_each_isa! {
    fn summarize_row(row: &[f32], summary: &mut [f32]) = fused summarize_body
}

/// The largest value, and the number of values that are NaN or +infinite; fills `top` with the largest values and their
/// indices.
#[inline(always)]
fn search(row: &[f32], top: &mut [[f32; 2]]) -> (f32, u32) {
    let (mut largest, mut not_finite) = ([f32::NEG_INFINITY; LANES], [0; LANES]);
    let mut found = 0;
    let (blocks, rest) = row.as_chunks::<SEARCHED>();
    for (block, values) in blocks.iter().enumerate() {
        let smallest = match top.last() {
            None => f32::INFINITY,
            Some(_) if found < top.len() => f32::NEG_INFINITY,
            Some([smallest, _]) => *smallest,
        };
        if compare(values, smallest, &mut largest, &mut not_finite) || found < top.len() {
            for (index, &value) in values.iter().enumerate() {
                insert(top, &mut found, [value, (block * SEARCHED + index) as f32]);
            }
        }
    }
    for (index, &value) in rest.iter().enumerate() {
        largest[index % LANES] = value.max(largest[index % LANES]);
        not_finite[0] += u32::from(is_nan_or_infinity(value));
        insert(top, &mut found, [value, (blocks.len() * SEARCHED + index) as f32]);
    }
    (
        largest.into_iter().fold(f32::NEG_INFINITY, f32::max),
        not_finite.iter().sum(),
    )
}

/// True if a value is larger than `smallest` or NaN. Updates the largest values and the counts of NaN and +infinity by
/// lane.
#[inline(always)]
#[allow(clippy::neg_cmp_op_on_partial_ord, reason = "a NaN counts as larger")]
fn compare(values: &[f32; SEARCHED], smallest: f32, largest: &mut [f32; LANES], not_finite: &mut [u32; LANES]) -> bool {
    let mut exceeds = [false; LANES];
    for values in values.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            let value = values[lane];
            largest[lane] = if value > largest[lane] { value } else { largest[lane] };
            exceeds[lane] |= !(value <= smallest);
            not_finite[lane] += u32::from(is_nan_or_infinity(value));
        }
    }
    exceeds.contains(&true)
}

/// True if a value is NaN or +infinite.
#[inline(always)]
#[allow(clippy::neg_cmp_op_on_partial_ord, reason = "true for NaN too")]
fn is_nan_or_infinity(value: f32) -> bool {
    !(value < f32::INFINITY)
}

/// Inserts a value with its index into the `found` largest so far, which are in descending order.
#[inline(always)]
fn insert(top: &mut [[f32; 2]], found: &mut usize, pair: [f32; 2]) {
    let mut at = match top.get(*found) {
        Some(_) => *found,
        // Replaces the last one if that is smaller.
        None => match top.last() {
            Some(last) if last[0].total_cmp(&pair[0]).is_lt() => top.len() - 1,
            _ => return,
        },
    };
    *found = top.len().min(*found + 1);
    while at > 0 && top[at - 1][0].total_cmp(&pair[0]).is_lt() {
        top[at] = top[at - 1];
        at -= 1;
    }
    top[at] = pair;
}

/// The sum of `exp(value - largest)`. It is NaN if a value is, or if one is +infinite or all are -infinite.
#[inline(always)]
fn sum_of_exp<const FMA: bool>(row: &[f32], largest: f32) -> f64 {
    let mut sums = [0.0f64; LANES];
    for values in row.chunks(SUMMED) {
        let mut terms = [0.0f32; LANES];
        let (whole, rest) = values.as_chunks::<LANES>();
        for values in whole {
            for (term, value) in terms.iter_mut().zip(values) {
                *term += exp::<FMA>(value - largest);
            }
        }
        for (term, value) in terms.iter_mut().zip(rest) {
            *term += exp::<FMA>(value - largest);
        }
        for (sum, term) in sums.iter_mut().zip(terms) {
            *sum += f64::from(term);
        }
    }
    sums.iter().sum()
}
