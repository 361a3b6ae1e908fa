//! Softmax attention within each sequence, a task for each sequence and head.

use rayon::prelude::*;

use super::math::softmax;
use super::product::{Matrix, product};
use crate::backend::Spans;

/// Shapes as in [`segment_attention`](crate::backend::BertBackend::segment_attention).
pub fn attention(query: &[f32], key_value: &[f32], hidden: usize, spans: &Spans, heads: usize) -> Vec<f32> {
    let size = hidden / heads;
    let scale = 1.0 / (size as f32).sqrt();
    let arch = pulp::Arch::new();
    let tasks: Vec<_> = spans
        .iter()
        .filter(|(queries, _)| !queries.is_empty())
        .flat_map(|(queries, tokens)| (0..heads).map(move |head| (queries.clone(), tokens.clone(), head)))
        .collect();
    let contexts: Vec<Vec<f32>> = tasks
        .par_iter()
        .map(|(queries, tokens, head)| {
            let (rows, len) = (queries.len(), tokens.len());
            let q = Matrix::new(&query[queries.start * hidden + head * size..], rows, size, hidden);
            let first_key = tokens.start * 2 * hidden + head * size;
            let k = Matrix::new(&key_value[first_key..], len, size, 2 * hidden);
            let v = Matrix::new(&key_value[first_key + hidden..], len, size, 2 * hidden);
            let mut scores = vec![0.0; rows * len];
            product(q, k.transposed(), 1.0, &mut scores, len, 1);
            arch.dispatch(|| scores.chunks_exact_mut(len).for_each(|row| softmax(row, scale)));
            let mut context = vec![0.0; rows * size];
            product(Matrix::new(&scores, rows, len, len), v, 1.0, &mut context, size, 1);
            context
        })
        .collect();
    let mut output = vec![0.0; query.len()];
    for ((queries, _, head), context) in tasks.iter().zip(&contexts) {
        for (row, values) in queries.clone().zip(context.chunks_exact(size)) {
            output[row * hidden + head * size..][..size].copy_from_slice(values);
        }
    }
    output
}
