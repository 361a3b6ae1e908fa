//! ndarray, with the encoder's operations as kernels over slices.
//!
//! Plain Burn on ndarray copies whole weights on reshape and computes `erf` one value at a time; the kernels do not.
//! Each is compared with its [`mod@reference`] over odd sizes in `tests`.

mod buffers;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};

use burn::tensor::{Tensor, TensorPrimitive};
use burn_ndarray::{NdArray, NdArrayTensor, SharedArray};
use cloze_kernels::{Context, Heads, Isa, Linear, Norm, Pairing, Pool, Rotation, Sequence, Window};
use ndarray::{ArcArray, IxDyn};

use super::readout::{STATISTICS, row_len};
use super::{
    Activation, AttentionOptions, EncoderBackend, EncoderTail, ForwardInputs, IndexList, LayerNorm, LinearOp, NormKind,
    Precision, QueryRows, ReadoutSpec, Rotary, RotaryPairing, SelfAttention, SequenceOffsets, UnsupportedPrecision,
    reference,
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
        let isa = match std::env::var(FEATURES_VARIABLE) {
            Ok(name) if !name.is_empty() => {
                Isa::named(&name).map_err(|reason| format!("{FEATURES_VARIABLE}: {reason}"))?
            }
            _ => Isa::detected(),
        };
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
        match layer.is_plain() {
            true => {
                with_context(|context| self_attention(context, query_states, kv_states, layer, inputs.offsets(rows)))
            }
            false => reference::self_attention(query_states, kv_states, layer, inputs, rows),
        }
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
    ) -> Tensor<Self, 2> {
        let tokens = options.window.map(|_| inputs.query_rows(rows));
        let tokens = tokens.as_deref().unwrap_or_default();
        with_context(|context| attention(context, query, key_value, inputs.offsets(rows), tokens, options))
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
        match norm.kind {
            NormKind::Layer => with_context(|context| normalize(context, x, residual, norm)),
            NormKind::RootMeanSquare => reference::layer_norm(x, residual, norm),
        }
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
    let (cos, sin) = (values(rotary.cos.clone()), values(rotary.sin.clone()));
    let rotation = Rotation {
        pairing: match rotary.pairing {
            RotaryPairing::Halves => Pairing::Halves,
            RotaryPairing::Neighbours => Pairing::Neighbours,
        },
        head_size: 2 * rotary.cos.dims()[1],
        cos: slice(&cos),
        sin: slice(&sin),
    };
    let mut x = owned(values(x));
    cloze_kernels::rotate(context, &mut x, heads, rotation, positions);
    tensor(x, rows, columns)
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

fn attention(
    context: Context<'_>,
    query: Tensor<Cpu, 2>,
    key_value: Tensor<Cpu, 2>,
    offsets: SequenceOffsets<'_>,
    query_tokens: &[u32],
    options: AttentionOptions,
) -> Tensor<Cpu, 2> {
    let [rows, hidden] = query.dims();
    let (query, key_value) = (values(query), values(key_value));
    let sequences = sequences_of(offsets);
    let mut mixed = buffers::take(rows * hidden);
    let heads = Heads {
        count: options.heads,
        hidden,
        precision: attention_precision(options.precision),
    };
    let (q, kv) = (slice(&query), slice(&key_value));
    match options.window {
        None => cloze_kernels::attention(context, heads, q, kv, &sequences, &mut mixed),
        Some(distance) => {
            let window = Window { distance, query_tokens };
            cloze_kernels::windowed_attention(context, heads, window, q, kv, &sequences, &mut mixed);
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
    offsets: SequenceOffsets<'_>,
) -> Tensor<Cpu, 2> {
    let sequences = sequences_of(offsets);
    let joint = cloze_kernels::SelfAttention {
        query: &layer.query.0,
        key_value: &layer.key_value.0,
        heads: layer.options.heads,
    };
    if !joint.is_worthwhile(context, &sequences) {
        let query = layer.query.forward(query_states, None);
        let key_value = layer.key_value.forward(kv_states, None);
        return attention(context, query, key_value, offsets, &[], layer.options);
    }
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
    let [attention_norm, output_norm] = [&layer.attention_norm, &layer.output_norm].map(Parameters::of);
    let tail = cloze_kernels::EncoderTail {
        output: &layer.attention_output.0,
        output_norm: attention_norm.norm(),
        up: &layer.up.0,
        activation: Some(kernel_activation(layer.activation)),
        down: &layer.down.0,
        norm: output_norm.norm(),
    };
    tail.apply(context, &mut attended, slice(&residual));
    buffers::give_back(residual);
    tensor(attended, rows, hidden)
}

/// A layer normalization's parameters as slices.
struct Parameters {
    gamma: SharedArray<f32>,
    beta: SharedArray<f32>,
    eps: f32,
}

impl Parameters {
    fn of(norm: &LayerNorm<Cpu>) -> Self {
        Self {
            gamma: values(norm.gamma.clone()),
            beta: values(norm.beta.clone()),
            eps: norm.eps as f32,
        }
    }

    fn norm(&self) -> Norm<'_> {
        Norm {
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
