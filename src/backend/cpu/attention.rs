//! Attention, alone and with its projections.

use std::borrow::Cow;

use cloze_kernels::{ByDistance, Context, DistanceBias, Heads, RotaryPositions, Sequence};

use super::precision::attention_precision;
use super::rotary::{RotaryTables, rotate};
use super::tensors::{slice, tensor, values};
use super::{Cpu, buffers};
use crate::backend::{
    AttentionOptions, ForwardInputs, LinearOp, QueryRows, RelativeBias, SelfAttention, SequenceOffsets, Tensor,
};

/// Biases and windows of one call, as the kernels read them.
struct Distances<'a> {
    query_tokens: Cow<'a, [u32]>,
    window: Option<usize>,
    /// The biases by head and distance, and the distances that they cover.
    bias: Option<(Vec<f32>, usize)>,
}

impl<'a> Distances<'a> {
    /// `None` if the distance has no influence.
    fn of(
        inputs: &'a ForwardInputs,
        rows: QueryRows,
        options: AttentionOptions,
        bias: Option<&RelativeBias<Cpu>>,
    ) -> Option<Self> {
        let window = options.window;
        (window.is_some() || bias.is_some()).then(|| Self {
            query_tokens: inputs.query_rows(rows),
            window,
            bias: bias.map(|bias| biases(bias, inputs.offsets(rows))),
        })
    }

    fn by_distance(&self) -> ByDistance<'_> {
        ByDistance {
            query_tokens: &self.query_tokens,
            window: self.window,
            bias: self
                .bias
                .as_ref()
                .map(|(values, span)| DistanceBias { values, span: *span }),
        }
    }
}

/// The biases of every head and distance, `[heads, 2 * span - 1]`, and the span.
fn biases(bias: &RelativeBias<Cpu>, offsets: SequenceOffsets<'_>) -> (Vec<f32>, usize) {
    let heads = bias.table.dims()[1];
    let table = values(bias.table.clone());
    let table = slice(&table);
    let longest = offsets.iter().map(|(_, keys)| keys.len()).max().unwrap_or(0);
    let span = longest + DistanceBias::BLOCK;
    let row = |index: usize| bias.row(index.saturating_sub(span - 1), (span - 1).saturating_sub(index));
    let rows: Vec<usize> = (0..2 * span - 1).map(row).collect();
    let of_head = |head: usize| rows.iter().map(move |&row| table[row * heads + head]);
    ((0..heads).flat_map(of_head).collect(), span)
}

pub fn attention(
    context: Context<'_>,
    query: Tensor<Cpu, 2>,
    key_value: Tensor<Cpu, 2>,
    inputs: &ForwardInputs,
    rows: QueryRows,
    options: AttentionOptions,
    bias: Option<&RelativeBias<Cpu>>,
) -> Tensor<Cpu, 2> {
    let distances = Distances::of(inputs, rows, options, bias);
    let sequences = sequences_of(inputs.offsets(rows));
    let [rows, hidden] = query.dims();
    let (query, key_value) = (values(query), values(key_value));
    let mut mixed = buffers::take(rows * hidden);
    let heads = Heads {
        count: options.heads,
        hidden,
        precision: attention_precision(options.precision),
    };
    let (q, kv) = (slice(&query), slice(&key_value));
    match &distances {
        None => cloze_kernels::attention(context, heads, q, kv, &sequences, &mut mixed),
        Some(distances) => {
            let distance = distances.by_distance();
            cloze_kernels::attention_by_distance(context, heads, distance, q, kv, &sequences, &mut mixed);
        }
    }
    buffers::give_back(query);
    buffers::give_back(key_value);
    tensor(mixed, rows, hidden)
}

fn sequences_of(offsets: SequenceOffsets<'_>) -> Vec<Sequence> {
    let sequences = offsets.iter();
    sequences
        .map(|(queries, tokens)| Sequence { queries, tokens })
        .collect()
}

pub fn self_attention(
    context: Context<'_>,
    query_states: Tensor<Cpu, 2>,
    kv_states: Tensor<Cpu, 2>,
    layer: &SelfAttention<Cpu>,
    inputs: &ForwardInputs,
    rows: QueryRows,
) -> Tensor<Cpu, 2> {
    let sequences = sequences_of(inputs.offsets(rows));
    let joint = cloze_kernels::SelfAttention {
        query: &layer.query.0,
        key_value: &layer.key_value.0,
        heads: layer.options.heads,
        rotary: None,
        distance: None,
    };
    if !joint.is_worthwhile(context, &sequences) {
        let mut query = layer.query.forward(query_states, None);
        let mut key_value = layer.key_value.forward(kv_states, None);
        let SelfAttention { options, bias, .. } = layer;
        if let Some(rotary) = &layer.rotary {
            query = rotate(context, query, rotary, options.heads, &inputs.positions(rows));
            key_value = rotate(context, key_value, rotary, options.heads, &inputs.position_ids);
        }
        return attention(context, query, key_value, inputs, rows, *options, bias.as_ref());
    }
    let distances = Distances::of(inputs, rows, layer.options, layer.bias.as_ref());
    let tables = layer.rotary.as_ref().map(RotaryTables::of);
    let positions = inputs.positions(rows);
    let joint = cloze_kernels::SelfAttention {
        rotary: tables.as_ref().map(|tables| RotaryPositions {
            rotation: tables.rotation(),
            queries: &positions,
            tokens: &inputs.position_ids,
        }),
        distance: distances.as_ref().map(Distances::by_distance),
        ..joint
    };
    let [rows, hidden] = query_states.dims();
    let (query_states, kv_states) = (values(query_states), values(kv_states));
    let mut mixed = buffers::take(rows * hidden);
    joint.apply(context, slice(&query_states), slice(&kv_states), &sequences, &mut mixed);
    buffers::give_back(query_states);
    buffers::give_back(kv_states);
    tensor(mixed, rows, hidden)
}
