//! What is kept of rows of logits: the sum of a softmax over the vocabulary and the likeliest tokens.
//!
//! A row is read twice, by one thread: the first time from wherever the decoder left it, the second from the cache.

use crate::Context;
use crate::level::for_each_level;
use crate::math::exp;
use crate::rows::Disjoint;

/// Numbers of a row before its likeliest tokens.
const STATISTICS: usize = 4;

/// Lanes of each loop: as many values as a register of AVX-512 has.
const LANES: usize = 16;

/// Values that are compared with the likeliest so far at once. Next to no block has one that is likelier.
const SEARCHED: usize = 4 * LANES;

/// Values that are summed in f32. Over tens of thousands of small terms f32 would lose the last digits, so the sums of
/// blocks are added in f64.
const SUMMED: usize = 16 * LANES;

/// Writes for each row of `logits`, `columns` wide, `4 + 2 * top` numbers: the largest logit; the sum of
/// `exp(logit - largest)` in two parts, the second being what the first lost by rounding; how many logits are NaN or
/// +infinite; and, best first, the `top` largest logits, each with its index. Of equal ones the first comes first.
///
/// # Panics
/// When the sizes do not fit together, or `top` is more than there are columns.
pub fn summarize_logits(context: Context<'_>, logits: &[f32], columns: usize, top: usize, summaries: &mut [f32]) {
    let len = STATISTICS + 2 * top;
    assert!(top <= columns && logits.len().is_multiple_of(columns));
    let rows = logits.len() / columns;
    assert!(summaries.len() == rows * len);
    let summaries = Disjoint::new(summaries);
    context.pool.run(rows, |row| {
        // SAFETY: every task has a row of its own.
        let summary = unsafe { summaries.slice(row * len..(row + 1) * len) };
        summarize_row(context.level, &logits[row * columns..(row + 1) * columns], summary);
    });
}

#[inline(always)]
fn summarize_body<const FMA: bool>(row: &[f32], summary: &mut [f32]) {
    let (statistics, top) = summary.split_at_mut(STATISTICS);
    let (largest, broken) = search(row, top.as_chunks_mut().0);
    let sum = sum_of_exp::<FMA>(row, largest);
    let rounded = sum as f32;
    statistics.copy_from_slice(&[largest, rounded, (sum - f64::from(rounded)) as f32, broken as f32]);
}

for_each_level! {
    fn summarize_row(row: &[f32], summary: &mut [f32]) = fused summarize_body
}

/// The largest value, and how many are NaN or +infinite; fills `top` with the largest values and their indices.
#[inline(always)]
fn search(row: &[f32], top: &mut [[f32; 2]]) -> (f32, u32) {
    let (mut largest, mut broken) = ([f32::NEG_INFINITY; LANES], [0; LANES]);
    let mut found = 0;
    let (blocks, rest) = row.as_chunks::<SEARCHED>();
    for (block, values) in blocks.iter().enumerate() {
        let worst = match top.last() {
            None => f32::INFINITY,
            Some(_) if found < top.len() => f32::NEG_INFINITY,
            Some([worst, _]) => *worst,
        };
        if compare(values, worst, &mut largest, &mut broken) || found < top.len() {
            for (index, &value) in values.iter().enumerate() {
                insert(top, &mut found, [value, (block * SEARCHED + index) as f32]);
            }
        }
    }
    for (index, &value) in rest.iter().enumerate() {
        largest[index % LANES] = value.max(largest[index % LANES]);
        broken[0] += u32::from(is_broken(value));
        insert(top, &mut found, [value, (blocks.len() * SEARCHED + index) as f32]);
    }
    (
        largest.into_iter().fold(f32::NEG_INFINITY, f32::max),
        broken.iter().sum(),
    )
}

/// Whether a value is larger than `worst` or NaN; lanes of the largest values and of how many are broken go along.
#[inline(always)]
#[allow(
    clippy::neg_cmp_op_on_partial_ord,
    reason = "a NaN counts as larger, and one comparison says so"
)]
fn compare(values: &[f32; SEARCHED], worst: f32, largest: &mut [f32; LANES], broken: &mut [u32; LANES]) -> bool {
    let mut exceeds = [false; LANES];
    for values in values.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            let value = values[lane];
            largest[lane] = if value > largest[lane] { value } else { largest[lane] };
            exceeds[lane] |= !(value <= worst);
            broken[lane] += u32::from(is_broken(value));
        }
    }
    exceeds.contains(&true)
}

/// Whether a value is NaN or +infinite.
#[inline(always)]
#[allow(clippy::neg_cmp_op_on_partial_ord, reason = "one comparison says both")]
fn is_broken(value: f32) -> bool {
    !(value < f32::INFINITY)
}

/// Puts a value with its index where it belongs among the largest so far, of which there are `found`.
#[inline(always)]
fn insert(top: &mut [[f32; 2]], found: &mut usize, pair: [f32; 2]) {
    let mut at = match top.get(*found) {
        Some(_) => *found,
        // The last one makes room, if it is the lesser.
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
