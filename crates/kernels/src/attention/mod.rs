//! Softmax attention within each sequence. A task is one head of one sequence, computed with the micro-kernels of the
//! dense layers.
//!
//! Scores are computed with the queries as columns: a tile has the scores of some keys for 32 queries, so the softmax
//! runs over whole registers. The second product takes the same columns as its rows and the values as its columns, both
//! without rearranging them.
//!
//! | file | subject |
//! |---|---|
//! | `distance` | windows and biases by the distance between query and key |
//! | `pack` | packing of queries, values and probabilities |
//! | `softmax` | softmax by column |
//! | `head` | one head of one sequence |

mod distance;
mod head;
mod pack;
mod softmax;

use std::cell::RefCell;
use std::ops::Range;

use crate::context::Context;
use crate::disjoint::{Disjoint, OutputTile};
use crate::gemm::Gemm;
use crate::isa::Isa;
use crate::layout::Precision;

pub use distance::{ByDistance, DistanceBias};
pub use head::{Head, Scratch};

/// The rows of a sequence in a packed batch.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// Among the queries.
    pub queries: Range<usize>,
    /// Among the keys and values.
    pub tokens: Range<usize>,
}

/// The heads of an attention, side by side.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    pub count: usize,
    /// Columns of all heads together.
    pub hidden: usize,
    /// Below f32, products are of bf16 on CPUs that have them, otherwise of f32.
    pub precision: Precision,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// `softmax(query · keyᵀ / √size) · value` for each head: `query` is `[query rows, hidden]`, `key_value`
/// `[token rows, 2 * hidden]` with the keys first. Writes `[query rows, hidden]` to `output`.
///
/// # Panics
/// If the sizes do not match, or if the queries of the sequences are not all rows, in order.
pub fn attention(
    context: Context<'_>,
    heads: Heads,
    query: &[f32],
    key_value: &[f32],
    sequences: &[Sequence],
    output: &mut [f32],
) {
    attend_all(context, heads, None, query, key_value, sequences, output);
}

/// [`attention()`] with a window or a bias by distance. With a window its work grows with the window, not with the
/// sequence.
///
/// # Panics
/// As [`attention()`], if a query's token is not one of its sequence, or if the biases do not cover a sequence.
pub fn attention_by_distance(
    context: Context<'_>,
    heads: Heads,
    distance: ByDistance<'_>,
    query: &[f32],
    key_value: &[f32],
    sequences: &[Sequence],
    output: &mut [f32],
) {
    distance.check(heads.count, sequences);
    attend_all(context, heads, Some(distance), query, key_value, sequences, output);
}

fn attend_all(
    context: Context<'_>,
    heads: Heads,
    distance: Option<ByDistance<'_>>,
    query: &[f32],
    key_value: &[f32],
    sequences: &[Sequence],
    output: &mut [f32],
) {
    let Heads {
        count,
        hidden,
        precision,
    } = heads;
    assert!(hidden.is_multiple_of(count) && query.len().is_multiple_of(hidden) && output.len() == query.len());
    // Each row is written by one sequence.
    let mut written = 0;
    for Sequence { queries, .. } in sequences {
        assert!(written == queries.start && queries.start <= queries.end);
        written = queries.end;
    }
    assert!(written == query.len() / hidden);
    let size = hidden / count;
    let gemm = attention_gemm(context.isa, precision);
    let with_queries: Vec<&Sequence> = sequences
        .iter()
        .filter(|sequence| !sequence.queries.is_empty())
        .collect();
    let shared = Disjoint::new(output);
    context.pool.run(with_queries.len() * count, |task| {
        let sequence = with_queries[task / count];
        let head = Head {
            hidden,
            start: task % count * size,
            size,
            tokens: sequence.tokens.len(),
            distance: distance.map(|distance| distance.of(task % count, sequence)),
        };
        let key_value = &key_value[sequence.tokens.start * 2 * hidden..sequence.tokens.end * 2 * hidden];
        let query = &query[sequence.queries.start * hidden..sequence.queries.end * hidden];
        let _tiles = gemm.tiles();
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.attend(context.isa, gemm, head, query, key_value, |row, dimension, columns| {
                let start = (sequence.queries.start + row) * hidden + head.start + dimension;
                // SAFETY: each task has its own columns of the rows of its sequence, which no other sequence has.
                unsafe { OutputTile::shared(&shared, start, hidden, columns) }
            });
        });
    });
}

/// The products of an attention in this precision: bf16 below f32 if the CPU has them, otherwise f32.
pub fn attention_gemm(isa: Isa, precision: Precision) -> Gemm {
    match precision {
        Precision::Bf16 | Precision::Int8 if isa.multiplies_bf16() => Gemm::new(isa, Precision::Bf16),
        // Pairs of bf16 would cost the scores digits that their exponentials need.
        _ => Gemm::new(isa.min(Isa::Avx512Bf16), Precision::F32),
    }
}
