//! ndarray, with the encoder's operations as kernels over slices.
//!
//! Plain Burn on ndarray copies whole weights on reshape and computes `erf` one value at a time; the kernels do not.
//! Each is compared with its [`reference`](mod@super::reference) over odd sizes in `tests`.

mod buffers;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::{Arc, OnceLock};

use burn::tensor::{Tensor, TensorPrimitive};
use burn_ndarray::{NdArray, NdArrayTensor, SharedArray};
use cloze_kernels::{
    ByDistance, Context, DistanceBias, Heads, Isa, Linear, Norm, Pairing, Pool, RotaryPositions, Rotation, Sequence,
};
use ndarray::{ArcArray, IxDyn};

use super::readout::{STATISTICS, row_len};
use super::{
    Activation, AttentionOptions, EncoderBackend, EncoderTail, ForwardInputs, IndexList, LayerNorm, LinearOp, NormKind,
    PooledRows, Pooling, Precision, QueryRows, ReadoutSpec, RelativeBias, Rotary, RotaryPairing, SelfAttention,
    SequenceOffsets, TailNorms, UnsupportedPrecision,
};

/// The CPU backend.
pub type Cpu = NdArray<f32>;

/// All rows of a chunk are read with the `top_k` of the greediest, so there is a limit to it.
const TOP_K_MAX: usize = 64;

/// The environment variable that selects a lower instruction set than the CPU has.
pub const FEATURES_VARIABLE: &str = "CLOZE_CPU_FEATURES";

/// The threads and the instruction set of one worker.
///
/// Burn's operations carry no such context, so it is a thread-local of the worker's thread while [`run`](Self::run)
/// runs.
pub struct Compute {
    pool: Pool,
    isa: Isa,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Compute>>> = const { RefCell::new(None) };
}

impl Compute {
    /// `threads` threads, including the one that calls [`run`](Self::run), with the CPU's best instruction set or the
    /// one that [`FEATURES_VARIABLE`] names.
    ///
    /// # Errors
    /// One sentence, if the threads cannot be started or the CPU lacks the instruction set.
    pub fn new(threads: usize) -> Result<Arc<Self>, String> {
        let isa = selected_isa()?;
        let pool = Pool::new(threads).map_err(|e| e.to_string())?;
        Ok(Arc::new(Self { pool, isa }))
    }

    /// Runs `work`, which computes with these threads and instructions.
    pub fn run<R>(self: &Arc<Self>, work: impl FnOnce() -> R) -> R {
        /// Restores the previous context, also if `work` panics.
        struct Restore(Option<Arc<Compute>>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0.take());
            }
        }
        let _restore = Restore(CURRENT.replace(Some(Arc::clone(self))));
        work()
    }

    fn context(&self) -> Context<'_> {
        let Self { pool, isa } = self;
        Context { pool, isa: *isa }
    }

    /// The instruction set in use, as the user reads it.
    pub fn features(&self) -> String {
        self.isa.to_string()
    }

    /// True if `precision` is f32, or faster than f32 with these instructions.
    pub fn gains_from(&self, precision: Precision) -> bool {
        precision == Precision::F32 || is_faster_than_f32(self.isa, precision)
    }
}

fn selected_isa() -> Result<Isa, String> {
    match std::env::var(FEATURES_VARIABLE) {
        Ok(name) if !name.is_empty() => Isa::named(&name).map_err(|reason| format!("{FEATURES_VARIABLE}: {reason}")),
        _ => Ok(Isa::detected()),
    }
}

fn is_faster_than_f32(isa: Isa, precision: Precision) -> bool {
    kernel_precision(precision).is_ok_and(|precision| isa.is_faster_than_f32(precision))
}

/// The fastest precision with the instructions in use whose top-1 agreement with f32 is at least 99 %
/// (docs/performance.md, "Accuracy of the precisions").
///
/// # Errors
/// As [`Compute::new`], if the CPU lacks the selected instruction set.
pub fn automatic_precision() -> Result<Precision, String> {
    /// The precisions that agree so far.
    const AGREEING: [Precision; 1] = [Precision::Bf16];
    let isa = selected_isa()?;
    let faster = AGREEING
        .into_iter()
        .find(|&precision| is_faster_than_f32(isa, precision));
    Ok(faster.unwrap_or_default())
}

/// Calls `work` with the context of [`Compute::run`], or else with this thread alone and the best instruction set.
fn with_context<R>(work: impl FnOnce(Context<'_>) -> R) -> R {
    static ALONE: OnceLock<Compute> = OnceLock::new();
    match CURRENT.with_borrow(Option::clone) {
        Some(compute) => work(compute.context()),
        None => {
            let alone = || Compute {
                pool: Pool::new(1).expect("the calling thread is there"),
                isa: Isa::detected(),
            };
            work(ALONE.get_or_init(alone).context())
        }
    }
}

/// The CPU's best instruction set, as the user reads it.
pub fn cpu_features() -> String {
    Isa::detected().to_string()
}

impl EncoderBackend for Cpu {
    type Linear = CpuLinear;
    type Inputs = ForwardInputs;

    const PRECISIONS: &'static [Precision] = PRECISIONS;
    const TOP_K_MAX: usize = TOP_K_MAX;
    /// The outputs are not stored; between two blocks a batch can be cancelled.
    const POOLED_ROWS_MAX: usize = 1024;

    fn upload(inputs: ForwardInputs, _device: &Self::Device) -> ForwardInputs {
        inputs
    }

    fn select_rows(table: &Tensor<Self, 2>, inputs: &ForwardInputs, list: IndexList) -> Tensor<Self, 2> {
        let rows = inputs.indices(list);
        let [entries, columns] = table.dims();
        let table = values(table.clone());
        let table = slice(&table);
        let mut selected = buffers::take(rows.len() * columns);
        for (values, &row) in selected.chunks_exact_mut(columns).zip(rows) {
            let row = row as usize;
            assert!(row < entries, "row {row} of {entries}");
            values.copy_from_slice(&table[row * columns..(row + 1) * columns]);
        }
        tensor(selected, rows.len(), columns)
    }

    fn self_attention(
        query_states: Tensor<Self, 2>,
        kv_states: Tensor<Self, 2>,
        layer: &SelfAttention<Self>,
        inputs: &ForwardInputs,
        rows: QueryRows,
    ) -> Tensor<Self, 2> {
        with_context(|context| self_attention(context, query_states, kv_states, layer, inputs, rows))
    }

    fn rotate(
        x: Tensor<Self, 2>,
        rotary: &Rotary<Self>,
        heads: usize,
        inputs: &ForwardInputs,
        rows: QueryRows,
    ) -> Tensor<Self, 2> {
        with_context(|context| rotate(context, x, rotary, heads, &inputs.positions(rows)))
    }

    fn add(x: Tensor<Self, 2>, y: Tensor<Self, 2>) -> Tensor<Self, 2> {
        combine(x, y, cloze_kernels::add)
    }

    fn multiply(x: Tensor<Self, 2>, y: Tensor<Self, 2>) -> Tensor<Self, 2> {
        combine(x, y, cloze_kernels::multiply)
    }

    fn sequence_attention(
        query: Tensor<Self, 2>,
        key_value: Tensor<Self, 2>,
        inputs: &ForwardInputs,
        rows: QueryRows,
        options: AttentionOptions,
        bias: Option<&RelativeBias<Self>>,
    ) -> Tensor<Self, 2> {
        with_context(|context| attention(context, query, key_value, inputs, rows, options, bias))
    }

    fn encoder_tail(
        attended: Tensor<Self, 2>,
        residual: Tensor<Self, 2>,
        layer: &EncoderTail<Self>,
    ) -> Tensor<Self, 2> {
        with_context(|context| encoder_tail(context, attended, residual, layer))
    }

    fn residual_layer_norm(
        x: Tensor<Self, 2>,
        residual: Option<Tensor<Self, 2>>,
        norm: &LayerNorm<Self>,
    ) -> Tensor<Self, 2> {
        with_context(|context| normalize(context, x, residual, norm))
    }

    fn read_logits(logits: Tensor<Self, 2>, inputs: &ForwardInputs, chunk: usize) -> Tensor<Self, 1> {
        with_context(|context| read_logits(context, logits, &inputs.readouts[chunk]))
    }
}

fn rotate(
    context: Context<'_>,
    x: Tensor<Cpu, 2>,
    rotary: &Rotary<Cpu>,
    heads: usize,
    positions: &[u32],
) -> Tensor<Cpu, 2> {
    let [rows, columns] = x.dims();
    let tables = RotaryTables::of(rotary);
    let mut x = owned(values(x));
    cloze_kernels::rotate(context, &mut x, heads, tables.rotation(), positions);
    tensor(x, rows, columns)
}

/// A rotation's tables as slices.
struct RotaryTables {
    pairing: Pairing,
    head_size: usize,
    cos: SharedArray<f32>,
    sin: SharedArray<f32>,
}

impl RotaryTables {
    fn of(rotary: &Rotary<Cpu>) -> Self {
        Self {
            pairing: match rotary.pairing {
                RotaryPairing::Halves => Pairing::Halves,
                RotaryPairing::Neighbours => Pairing::Neighbours,
            },
            head_size: 2 * rotary.cos.dims()[1],
            cos: values(rotary.cos.clone()),
            sin: values(rotary.sin.clone()),
        }
    }

    fn rotation(&self) -> Rotation<'_> {
        Rotation {
            pairing: self.pairing,
            head_size: self.head_size,
            cos: slice(&self.cos),
            sin: slice(&self.sin),
        }
    }
}

/// Combines two matrices of one size, in the memory of `x`.
fn combine(x: Tensor<Cpu, 2>, y: Tensor<Cpu, 2>, operation: fn(Context<'_>, &mut [f32], &[f32])) -> Tensor<Cpu, 2> {
    let [rows, columns] = x.dims();
    let y = values(y);
    let mut x = owned(values(x));
    with_context(|context| operation(context, &mut x, slice(&y)));
    buffers::give_back(y);
    tensor(x, rows, columns)
}

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

fn attention(
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

fn self_attention(
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

fn encoder_tail(
    context: Context<'_>,
    attended: Tensor<Cpu, 2>,
    residual: Tensor<Cpu, 2>,
    layer: &EncoderTail<Cpu>,
) -> Tensor<Cpu, 2> {
    let [rows, hidden] = residual.dims();
    let (mut attended, residual) = (owned(values(attended)), values(residual));
    let (first, second) = match &layer.norms {
        TailNorms::Post { attention, output } => (Parameters::of(attention), Some(Parameters::of(output))),
        TailNorms::Pre(norm) => (Parameters::of(norm), None),
    };
    let tail = cloze_kernels::EncoderTail {
        output: &layer.attention_output.0,
        gate: layer.gate.as_ref().map(|gate| &gate.0),
        up: &layer.up.0,
        activation: Some(kernel_activation(layer.activation)),
        down: &layer.down.0,
        norms: match &second {
            Some(second) => cloze_kernels::TailNorms::Post {
                first: first.norm(),
                second: second.norm(),
            },
            None => cloze_kernels::TailNorms::Pre(first.norm()),
        },
    };
    tail.apply(context, &mut attended, slice(&residual));
    buffers::give_back(residual);
    tensor(attended, rows, hidden)
}

/// A layer normalization's parameters as slices.
struct Parameters {
    kind: cloze_kernels::NormKind,
    gamma: SharedArray<f32>,
    beta: SharedArray<f32>,
    eps: f32,
}

impl Parameters {
    fn of(norm: &LayerNorm<Cpu>) -> Self {
        Self {
            kind: match norm.kind {
                NormKind::Layer => cloze_kernels::NormKind::Layer,
                NormKind::RootMeanSquare => cloze_kernels::NormKind::RootMeanSquare,
            },
            gamma: values(norm.gamma.clone()),
            beta: values(norm.beta.clone()),
            eps: norm.eps as f32,
        }
    }

    fn norm(&self) -> Norm<'_> {
        Norm {
            kind: self.kind,
            gamma: slice(&self.gamma),
            beta: slice(&self.beta),
            eps: self.eps,
        }
    }
}

fn normalize(
    context: Context<'_>,
    x: Tensor<Cpu, 2>,
    residual: Option<Tensor<Cpu, 2>>,
    norm: &LayerNorm<Cpu>,
) -> Tensor<Cpu, 2> {
    let [rows, hidden] = x.dims();
    let residual = residual.map(values);
    let parameters = Parameters::of(norm);
    let mut x = owned(values(x));
    cloze_kernels::layer_norm(context, &mut x, residual.as_ref().map(slice), parameters.norm());
    residual.into_iter().for_each(buffers::give_back);
    tensor(x, rows, hidden)
}

// The kernel and the reader of its summaries agree on their layout.
const _: () = assert!(cloze_kernels::LOGIT_STATISTICS == STATISTICS);

fn read_logits(context: Context<'_>, logits: Tensor<Cpu, 2>, spec: &ReadoutSpec) -> Tensor<Cpu, 1> {
    let columns = logits.dims()[1];
    let logits = values(logits);
    let rows = &slice(&logits)[..spec.rows * columns];
    let mut readout = Vec::with_capacity(spec.len());
    readout.resize(spec.rows * row_len(spec.top_k), 0.0);
    cloze_kernels::summarize_logits(context, rows, columns, spec.top_k, &mut readout);
    for (row, bounds) in rows.chunks_exact(columns).zip(spec.row_offsets.windows(2)) {
        let tokens = &spec.token_ids[bounds[0] as usize..bounds[1] as usize];
        readout.extend(tokens.iter().map(|&token| row[token as usize]));
    }
    buffers::give_back(logits);
    let array = ArcArray::from_shape_vec(IxDyn(&[readout.len()]), readout).expect("its own length");
    Tensor::from_primitive(TensorPrimitive::Float(array.into()))
}

/// The precisions of the kernels.
const PRECISIONS: &[Precision] = &[Precision::F32, Precision::Bf16, Precision::Int8];

fn kernel_precision(precision: Precision) -> Result<cloze_kernels::Precision, UnsupportedPrecision> {
    match precision {
        Precision::F32 => Ok(cloze_kernels::Precision::F32),
        Precision::Bf16 => Ok(cloze_kernels::Precision::Bf16),
        Precision::Int8 => Ok(cloze_kernels::Precision::Int8),
        requested @ Precision::F16 => Err(UnsupportedPrecision {
            requested,
            supported: PRECISIONS,
        }),
    }
}

/// The kernels' precision for the products of attention, which may be higher than the one of the options.
fn attention_precision(precision: Precision) -> cloze_kernels::Precision {
    kernel_precision(precision).unwrap_or(cloze_kernels::Precision::F32)
}

fn kernel_activation(activation: Activation) -> cloze_kernels::Activation {
    match activation {
        Activation::Gelu => cloze_kernels::Activation::Gelu,
        Activation::GeluTanh => cloze_kernels::Activation::GeluTanh,
        Activation::Relu => cloze_kernels::Activation::Relu,
        Activation::Silu => cloze_kernels::Activation::Silu,
    }
}

/// Rows of a weight that are unpacked at once.
const ROWS_AT_ONCE: usize = 16;

/// A dense layer in the packed layout of the kernels.
pub struct CpuLinear(Linear);

impl LinearOp<Cpu> for CpuLinear {
    fn prepare(
        weight: Tensor<Cpu, 2>,
        bias: Tensor<Cpu, 1>,
        precision: Precision,
    ) -> Result<Self, UnsupportedPrecision> {
        let precision = kernel_precision(precision)?;
        let inputs = weight.dims()[1];
        let (weight, bias) = (values(weight), values(bias));
        Ok(Self(with_context(|context| {
            Linear::new(context.isa, slice(&weight), slice(&bias), inputs, precision)
        })))
    }

    fn forward(&self, x: Tensor<Cpu, 2>, activation: Option<Activation>) -> Tensor<Cpu, 2> {
        let rows = x.dims()[0];
        let x = values(x);
        let mut y = buffers::take(rows * self.0.outputs());
        let activation = activation.map(kernel_activation);
        with_context(|context| self.0.apply(context, slice(&x), rows, activation, &mut y));
        buffers::give_back(x);
        tensor(y, rows, self.0.outputs())
    }

    fn forward_pooled(&self, x: Tensor<Cpu, 2>, pools: &[PooledRows], pooled: Tensor<Cpu, 2>) -> Tensor<Cpu, 2> {
        let pools = pools.iter().map(|pool| cloze_kernels::PooledRows {
            rows: pool.rows.clone(),
            to: pool.to,
            pooling: match pool.pooling {
                Pooling::Max => cloze_kernels::Pooling::Max,
                Pooling::Sum => cloze_kernels::Pooling::SumLog1p,
            },
        });
        let pools: Vec<_> = pools.collect();
        let [rows, columns] = pooled.dims();
        let (x, mut pooled) = (values(x), owned(values(pooled)));
        with_context(|context| self.0.apply_pooled(context, slice(&x), &pools, &mut pooled));
        buffers::give_back(x);
        tensor(pooled, rows, columns)
    }

    fn embedding_lookup(&self, inputs: &ForwardInputs) -> Tensor<Cpu, 2> {
        let (ids, inputs) = (&inputs.token_ids, self.0.inputs());
        let mut rows = buffers::take(ids.len() * inputs);
        // A few at a time, because the kernel returns them in a new vector.
        for (values, ids) in rows.chunks_mut(ROWS_AT_ONCE * inputs).zip(ids.chunks(ROWS_AT_ONCE)) {
            values.copy_from_slice(&self.0.rows(ids));
        }
        tensor(rows, ids.len(), inputs)
    }
}

/// The values of a tensor in row-major order, without a copy if it has that order already.
fn values<const D: usize>(tensor: Tensor<Cpu, D>) -> SharedArray<f32> {
    match tensor.into_primitive().tensor() {
        NdArrayTensor::F32(storage) => {
            let array = storage.into_shared();
            match array.is_standard_layout() {
                true => array,
                false => array.as_standard_layout().into_shared(),
            }
        }
        other => unreachable!("an f32 backend made a tensor of another type: {other:?}"),
    }
}

fn slice(array: &SharedArray<f32>) -> &[f32] {
    array.as_slice().expect("values() gives row-major arrays")
}

/// The values as a vector; copies only if another tensor shares them.
fn owned(array: SharedArray<f32>) -> Vec<f32> {
    let (values, offset) = array.into_owned().into_raw_vec_and_offset();
    debug_assert!(offset.is_none_or(|offset| offset == 0));
    values
}

fn tensor(values: Vec<f32>, rows: usize, columns: usize) -> Tensor<Cpu, 2> {
    let array = ArcArray::from_shape_vec(IxDyn(&[rows, columns]), values).expect("as many values as the shape says");
    Tensor::from_primitive(TensorPrimitive::Float(array.into()))
}
