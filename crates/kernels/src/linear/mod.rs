//! Dense layers: packed weights, bias, activation.
//!
//! | file | subject |
//! |---|---|
//! | `packed_rows` | packed activations |
//! | `product` | one call of a layer: tasks and tiles |

mod packed_rows;
mod product;

use std::ops::Range;

use crate::context::Context;
use crate::disjoint::Disjoint;
use crate::epilogue::{Activation, Dequantize, Epilogue};
use crate::gemm::Gemm;
use crate::isa::Isa;
use crate::layout::{KLayout, Line, NR, Precision, panel_element, part};
use crate::pack;
use crate::pooled::{Pooled, PooledRows};
use crate::weight_lines::WeightLines;

pub use packed_rows::PackedRows;
use product::{Destination, multiply};

/// A dense layer with packed weights.
pub struct Linear {
    precision: Precision,
    inputs: usize,
    outputs: usize,
    /// Layout of the weights. The layout of activations also depends on the instruction set that computes.
    layout: KLayout,
    /// All panels, one after the other.
    lines: WeightLines,
    /// By panel; zero beyond the last output.
    bias: Vec<[f32; NR]>,
    /// For 8-bit weights, by panel; zero beyond the last output.
    weight_scales: Vec<[f32; NR]>,
    /// For 8-bit weights, by panel: the amount that the zero point of the activations adds to each sum.
    zero_point: Vec<[i32; NR]>,
}

impl Linear {
    /// Packs `weight` `[outputs, inputs]`, row-major; `bias` is `[outputs]`. The layout is the same for all instruction
    /// sets but AMX, which keeps f32 weights as two bf16, with 16 bits of precision.
    ///
    /// # Panics
    /// If the sizes do not match or are zero.
    pub fn new(isa: Isa, weight: &[f32], bias: &[f32], inputs: usize, precision: Precision) -> Self {
        let outputs = bias.len();
        assert!(outputs > 0 && inputs > 0 && weight.len() == outputs * inputs);
        let layout = Gemm::new(isa, precision).layout(inputs);
        let steps = layout.panel_lines() / 2;
        let (lines, scales) = match precision {
            Precision::F32 if layout.is_amx() => (pack::panels_split(weight, outputs, inputs), Vec::new()),
            Precision::F32 => (pack::panels_f32(weight, outputs, inputs, steps), Vec::new()),
            Precision::Bf16 => (pack::panels_bf16(weight, outputs, inputs, steps), Vec::new()),
            Precision::Int8 => pack::panels_int8(weight, outputs, inputs, steps),
        };
        let mut linear = Self {
            precision,
            inputs,
            outputs,
            layout,
            lines: WeightLines::new(&lines),
            bias: by_panel(bias),
            weight_scales: by_panel(&scales),
            zero_point: Vec::new(),
        };
        if precision == Precision::Int8 {
            linear.zero_point = linear.panels().map(pack::zero_point_sums).collect();
        }
        linear
    }

    /// The width of the input.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The width of the output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }

    /// The layout of the weights and of activations for `isa`.
    ///
    /// # Panics
    /// If the weights are packed for AMX and `isa` is smaller, or the other way round.
    pub(crate) fn layout(&self, isa: Isa) -> KLayout {
        assert_eq!(
            self.layout.is_amx(),
            isa >= Isa::Amx,
            "packed for another instruction set"
        );
        Gemm::new(isa, self.precision).layout(self.inputs)
    }

    pub(crate) fn panel(&self, index: usize) -> &[Line] {
        &self.lines[self.layout.line_range(index, 0..self.layout.k_blocks)]
    }

    /// Part `index` of `count` of a panel, to prefetch; empty beyond the last panel.
    pub(crate) fn part_of_panel(&self, panel: usize, index: usize, count: usize) -> &[Line] {
        match panel < self.bias.len() {
            true => part(self.panel(panel), index, count),
            false => &[],
        }
    }

    /// Some K-blocks of a panel.
    pub(crate) fn k_blocks_of_panel(&self, panel: usize, k_blocks: Range<usize>) -> &[Line] {
        &self.lines[self.layout.line_range(panel, k_blocks)]
    }

    /// The epilogue of a panel's sums. `activation_scales` are those of the rows, for 8 bits.
    pub(crate) fn epilogue<'a>(&'a self, panel: usize, activation_scales: &'a [f32]) -> Epilogue<'a> {
        let bias = &self.bias[panel];
        match self.precision {
            Precision::F32 | Precision::Bf16 => Epilogue::Bias(bias),
            Precision::Int8 => Epilogue::Dequantize(Dequantize {
                zero_point: &self.zero_point[panel],
                activation_scales,
                weight_scales: &self.weight_scales[panel],
                bias,
            }),
        }
    }

    fn panels(&self) -> impl ExactSizeIterator<Item = &[Line]> {
        self.lines.chunks_exact(self.layout.panel_lines())
    }

    /// Writes `activation(x · weightᵀ + bias)` to `y`: `x` is `[rows, inputs]`, `y` `[rows, outputs]`.
    ///
    /// # Panics
    /// If the sizes do not match, or if the layer is packed for AMX and `context` has a smaller instruction set, or the
    /// other way round.
    pub fn apply(&self, context: Context<'_>, x: &[f32], rows: usize, activation: Option<Activation>, y: &mut [f32]) {
        assert!(x.len() == rows * self.inputs && y.len() == rows * self.outputs);
        let destination = Destination::Matrix {
            y: Disjoint::new(y),
            activation,
        };
        multiply(self, context, x, rows, &destination);
    }

    /// Pools `x · weightᵀ + bias` into `pooled` `[any number of rows, outputs]`, whose values are at least 0: 0 before
    /// the first call. `x` is `[rows, inputs]`; the rows of `pools` ascend and do not overlap.
    ///
    /// # Panics
    /// If the sizes do not match or the rows are out of order, or as [`apply`](Self::apply).
    pub fn apply_pooled(&self, context: Context<'_>, x: &[f32], pools: &[PooledRows], pooled: &mut [f32]) {
        let rows = x.len() / self.inputs;
        assert!(x.len() == rows * self.inputs);
        let pooled = Pooled::new(pools, rows, self.outputs, pooled);
        multiply(self, context, x, rows, &Destination::Pooled(pooled));
    }

    /// Rows `ids` of the weight, one after the other.
    ///
    /// # Panics
    /// If an id is not below the number of outputs.
    pub fn rows(&self, ids: &[u32]) -> Vec<f32> {
        let mut values = Vec::with_capacity(ids.len() * self.inputs);
        for &id in ids {
            let id = id as usize;
            assert!(id < self.outputs());
            let (index, column) = (id / NR, id % NR);
            let panel = self.panel(index);
            let half = |element: u32, input: usize| f32::from_bits(element >> (16 * (input % 2)) << 16);
            values.extend((0..self.inputs).map(|input| match self.precision {
                Precision::F32 if self.layout.is_amx() => {
                    let [high, low] = pack::split_elements(panel, input / 2, column);
                    half(high, input) + half(low, input)
                }
                Precision::F32 => f32::from_bits(panel_element(panel, input, column)),
                Precision::Bf16 => half(panel_element(panel, input / 2, column), input),
                Precision::Int8 => {
                    let element = panel_element(panel, input / 4, column);
                    f32::from(element.to_le_bytes()[input % 4] as i8) * self.weight_scales[index][column]
                }
            }));
        }
        values
    }
}

/// Values of the outputs, panel by panel.
fn by_panel(values: &[f32]) -> Vec<[f32; NR]> {
    let panel = |values: &[f32]| {
        let mut panel = [0.0; NR];
        panel[..values.len()].copy_from_slice(values);
        panel
    };
    values.chunks(NR).map(panel).collect()
}
