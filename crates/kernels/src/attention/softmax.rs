//! The softmax of scores whose columns are queries, over all keys at once or over one part after the other.

use crate::isa::for_each_isa;
use crate::layout::NR;
use crate::math::exp_below;

/// The softmax of 32 queries over the keys so far.
pub struct Online {
    max: [f32; NR],
    /// By query, the sum of the exponentials so far.
    pub sums: [f32; NR],
}

impl Online {
    /// No key so far.
    pub const START: Self = Self {
        max: [f32::NEG_INFINITY; NR],
        sums: [0.0; NR],
    };
}

/// Replaces scores by `e^(scale · (score - max))`, the maximum being that of the column; `factors` receives the
/// reciprocal of each column's sum.
#[inline(always)]
fn softmax_body<const FMA: bool>(scores: &mut [[f32; NR]], scale: f32, factors: &mut [f32; NR]) {
    let mut max = [f32::NEG_INFINITY; NR];
    for row in scores.iter() {
        for n in 0..NR {
            max[n] = if row[n] > max[n] { row[n] } else { max[n] };
        }
    }
    let mut sums = [0.0; NR];
    for row in scores {
        for n in 0..NR {
            row[n] = exp_below::<FMA>(row[n], max[n], scale);
            sums[n] += row[n];
        }
    }
    *factors = sums.map(|sum| 1.0 / sum);
}

/// [`softmax`] of some keys after others: `corrections` receives the factors of the sums so far.
#[inline(always)]
fn softmax_online_body<const FMA: bool>(
    scores: &mut [[f32; NR]],
    scale: f32,
    online: &mut Online,
    corrections: &mut [f32; NR],
) {
    let mut max = online.max;
    for row in scores.iter() {
        for n in 0..NR {
            max[n] = if row[n] > max[n] { row[n] } else { max[n] };
        }
    }
    // Where every key so far is out of the window, any maximum gives zeros.
    let from = max.map(|max| if max == f32::NEG_INFINITY { 0.0 } else { max });
    for n in 0..NR {
        corrections[n] = exp_below::<FMA>(online.max[n], from[n], scale);
    }
    let mut sums = [0.0; NR];
    for row in scores {
        for n in 0..NR {
            row[n] = exp_below::<FMA>(row[n], from[n], scale);
            sums[n] += row[n];
        }
    }
    for n in 0..NR {
        online.sums[n] = online.sums[n] * corrections[n] + sums[n];
    }
    online.max = max;
}

/// Multiplies rows by their factors, then adds those of a tile that is there; all are bits of f32.
#[inline(always)]
fn accumulate_body(sums: &mut [[u32; NR]], tile: &[[u32; NR]], factors: &[f32]) {
    for (index, (row, factor)) in sums.iter_mut().zip(factors).enumerate() {
        let added = tile.get(index).unwrap_or(&[0; NR]);
        for n in 0..NR {
            row[n] = (f32::from_bits(row[n]) * factor + f32::from_bits(added[n])).to_bits();
        }
    }
}

for_each_isa! {
    pub fn softmax(scores: &mut [[f32; NR]], scale: f32, factors: &mut [f32; NR]) = fused softmax_body
}
for_each_isa! {
    pub fn softmax_online(scores: &mut [[f32; NR]], scale: f32, online: &mut Online, corrections: &mut [f32; NR]) = fused softmax_online_body
}
for_each_isa! {
    pub fn accumulate(sums: &mut [[u32; NR]], tile: &[[u32; NR]], factors: &[f32]) = accumulate_body
}
