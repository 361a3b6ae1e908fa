//! ndarray, with BERT's operations as kernels over raw slices.
//!
//! Plain Burn on ndarray copies whole weights on reshape and computes `erf` one value at a time; these
//! kernels do not. Each is compared with [`plain`](super::plain) over odd sizes in `tests`.

mod buffers;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};

use burn::tensor::{Tensor, TensorPrimitive};
use burn_ndarray::{NdArray, NdArrayTensor, SharedArray};
use cloze_kernels::{Context, EncoderTail, Heads, Isa, Linear, Norm, Pool, SelfAttention, Sequence};
use ndarray::{ArcArray, IxDyn};

use super::summary::row_len;
use super::{Activation, AfterAttention, BertBackend, HostLists, LayerNorm, LinearOp, Lists, Precision, Spans, Wanted};

/// The CPU backend.
pub type Cpu = NdArray<f32>;

/// Likeliest tokens that a row tells at most. All rows of a batch tell as many as the greediest asks for, so there is an end
/// to it.
const TOP_MAX: usize = 64;

/// The environment variable that forces lesser instructions than the CPU has.
pub const FEATURES_VARIABLE: &str = "CLOZE_CPU_FEATURES";

/// Threads that compute, and the instructions that they use: what one worker has for itself.
///
/// Burn's operations take no such thing along, so a worker's thread [carries](Self::run) it.
pub struct Compute {
    pool: Pool,
    isa: Isa,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Compute>>> = const { RefCell::new(None) };
}

impl Compute {
    /// `threads` threads, the one that calls [`run`](Self::run) included, with the best instructions there are or those
    /// that [`FEATURES_VARIABLE`] names.
    ///
    /// # Errors
    /// When the threads cannot be started or the CPU lacks the instructions; one sentence.
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

    /// Runs `work`; whatever it computes on this backend is computed here.
    pub fn run<R>(self: &Arc<Self>, work: impl FnOnce() -> R) -> R {
        /// Puts back what was there, also when `work` panics.
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

    /// The vector instructions in use, in words.
    pub fn features(&self) -> String {
        self.isa.to_string()
    }
}

/// Calls `work` with what this thread computes with: what [`Compute::run`] says, or this thread alone with the best
/// instructions.
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

/// The best vector instructions that this CPU has, in words.
pub fn cpu_features() -> String {
    Isa::detected().to_string()
}

impl BertBackend for Cpu {
    type Linear = CpuLinear;
    type Rows = Vec<u32>;
    type Segments = Spans;

    const TOP_MAX: usize = TOP_MAX;

    fn upload(lists: HostLists, _device: &Self::Device) -> Lists<Vec<u32>, Spans> {
        lists
    }

    fn select_rows(table: &Tensor<Self, 2>, rows: &Vec<u32>) -> Tensor<Self, 2> {
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

    fn segment_attention(
        query: Tensor<Self, 2>,
        key_value: Tensor<Self, 2>,
        spans: &Spans,
        heads: usize,
        precision: Precision,
    ) -> Tensor<Self, 2> {
        with_context(|context| attend(context, query, key_value, spans, heads, precision))
    }

    fn attend(
        asking: Tensor<Self, 2>,
        all: Tensor<Self, 2>,
        query: &CpuLinear,
        key_value: &CpuLinear,
        spans: &Spans,
        heads: usize,
        precision: Precision,
    ) -> Tensor<Self, 2> {
        with_context(|context| self_attend(context, asking, all, [query, key_value], spans, heads, precision))
    }

    fn after_attention(
        attended: Tensor<Self, 2>,
        residual: Tensor<Self, 2>,
        layers: &AfterAttention<Self>,
    ) -> Tensor<Self, 2> {
        with_context(|context| after_attention(context, attended, residual, layers))
    }

    fn residual_layer_norm(
        x: Tensor<Self, 2>,
        residual: Option<Tensor<Self, 2>>,
        norm: &LayerNorm<Self>,
    ) -> Tensor<Self, 2> {
        with_context(|context| normalize(context, x, residual, norm))
    }

    fn summarize(logits: Tensor<Self, 2>, wanted: &Wanted<Vec<u32>>) -> Tensor<Self, 1> {
        with_context(|context| summarize(context, logits, wanted))
    }
}

fn attend(
    context: Context<'_>,
    query: Tensor<Cpu, 2>,
    key_value: Tensor<Cpu, 2>,
    spans: &Spans,
    heads: usize,
    precision: Precision,
) -> Tensor<Cpu, 2> {
    let [rows, hidden] = query.dims();
    let (query, key_value) = (values(query), values(key_value));
    let segments = segments_of(spans);
    let mut mixed = buffers::take(rows * hidden);
    let heads = Heads {
        count: heads,
        hidden,
        precision: kernel_precision(precision),
    };
    let (asked, known) = (slice(&query), slice(&key_value));
    cloze_kernels::attention(context, heads, asked, known, &segments, &mut mixed);
    buffers::give_back(query);
    buffers::give_back(key_value);
    tensor(mixed, rows, hidden)
}

fn segments_of(spans: &Spans) -> Vec<Sequence> {
    let segments = spans.iter();
    segments.map(|(queries, tokens)| Sequence { queries, tokens }).collect()
}

fn self_attend(
    context: Context<'_>,
    asking: Tensor<Cpu, 2>,
    all: Tensor<Cpu, 2>,
    [query, key_value]: [&CpuLinear; 2],
    spans: &Spans,
    heads: usize,
    precision: Precision,
) -> Tensor<Cpu, 2> {
    let segments = segments_of(spans);
    let joint = SelfAttention {
        query: &query.0,
        key_value: &key_value.0,
        heads,
    };
    if !joint.is_worthwhile(context, &segments) {
        let (query, key_value) = (query.forward(asking, None), key_value.forward(all, None));
        return attend(context, query, key_value, spans, heads, precision);
    }
    let [rows, hidden] = asking.dims();
    let (asking, all) = (values(asking), values(all));
    let mut mixed = buffers::take(rows * hidden);
    joint.apply(context, slice(&asking), slice(&all), &segments, &mut mixed);
    buffers::give_back(asking);
    buffers::give_back(all);
    tensor(mixed, rows, hidden)
}

fn after_attention(
    context: Context<'_>,
    attended: Tensor<Cpu, 2>,
    residual: Tensor<Cpu, 2>,
    layers: &AfterAttention<Cpu>,
) -> Tensor<Cpu, 2> {
    let [rows, hidden] = residual.dims();
    let (mut attended, residual) = (owned(values(attended)), values(residual));
    let [output_parameters, parameters] = [&layers.attention_norm, &layers.output_norm].map(Parameters::of);
    let layers = EncoderTail {
        output: &layers.attention_output.0,
        output_norm: output_parameters.norm(),
        up: &layers.intermediate.0,
        activation: Some(kernel_activation(layers.hidden_act)),
        down: &layers.output.0,
        norm: parameters.norm(),
    };
    layers.apply(context, &mut attended, slice(&residual));
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

fn summarize(context: Context<'_>, logits: Tensor<Cpu, 2>, wanted: &Wanted<Vec<u32>>) -> Tensor<Cpu, 1> {
    let columns = logits.dims()[1];
    let logits = values(logits);
    let known = &slice(&logits)[..wanted.rows * columns];
    let mut summary = Vec::with_capacity(wanted.summary_len());
    summary.resize(wanted.rows * row_len(wanted.top), 0.0);
    cloze_kernels::summarize_logits(context, known, columns, wanted.top, &mut summary);
    for (row, bounds) in known.chunks_exact(columns).zip(wanted.token_bounds.windows(2)) {
        let tokens = &wanted.tokens[bounds[0] as usize..bounds[1] as usize];
        summary.extend(tokens.iter().map(|&token| row[token as usize]));
    }
    buffers::give_back(logits);
    let array = ArcArray::from_shape_vec(IxDyn(&[summary.len()]), summary).expect("its own length");
    Tensor::from_primitive(TensorPrimitive::Float(array.into()))
}

fn kernel_precision(precision: Precision) -> cloze_kernels::Precision {
    match precision {
        // A CPU has no products in f16; nothing above asks for them.
        Precision::F32 | Precision::F16 => cloze_kernels::Precision::F32,
        Precision::Bf16 => cloze_kernels::Precision::Bf16,
        Precision::Int8 => cloze_kernels::Precision::Int8,
    }
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

/// A dense layer in the order that the kernels read it.
pub struct CpuLinear(Linear);

impl LinearOp<Cpu> for CpuLinear {
    fn prepare(weight: Tensor<Cpu, 2>, bias: Tensor<Cpu, 1>, precision: Precision) -> Self {
        let inputs = weight.dims()[1];
        let (weight, bias) = (values(weight), values(bias));
        let precision = kernel_precision(precision);
        Self(with_context(|context| {
            Linear::new(context.isa, slice(&weight), slice(&bias), inputs, precision)
        }))
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

    fn weight_rows(&self, ids: &Vec<u32>) -> Tensor<Cpu, 2> {
        let inputs = self.0.inputs();
        let mut rows = buffers::take(ids.len() * inputs);
        // A few at a time, since they come as a vector of their own.
        for (values, ids) in rows.chunks_mut(ROWS_AT_ONCE * inputs).zip(ids.chunks(ROWS_AT_ONCE)) {
            values.copy_from_slice(&self.0.rows(ids));
        }
        tensor(rows, ids.len(), inputs)
    }
}

/// The values of a tensor in row-major order, without a copy where it has that order already.
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

/// The values as a vector of their own; copies only where somebody else still holds them.
fn owned(array: SharedArray<f32>) -> Vec<f32> {
    let (values, offset) = array.into_owned().into_raw_vec_and_offset();
    debug_assert!(offset.is_none_or(|offset| offset == 0));
    values
}

fn tensor(values: Vec<f32>, rows: usize, columns: usize) -> Tensor<Cpu, 2> {
    let array = ArcArray::from_shape_vec(IxDyn(&[rows, columns]), values).expect("as many values as the shape says");
    Tensor::from_primitive(TensorPrimitive::Float(array.into()))
}
