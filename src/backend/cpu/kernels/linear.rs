//! Dense layers: a matrix product over packed weights, then bias and activation while the sums are warm.

use std::cell::RefCell;

use crate::Context;
use crate::pack::{self, Blocks, COLUMNS, Line, ROWS_MAX, word_of};
use crate::rows::{Disjoint, finish_f32, finish_int8};
use crate::tile::{Sums, Words, tile, zero_point_share};

/// Bytes of weights that a task keeps in the second-level cache while it walks over all rows.
const GROUP_BYTES: usize = 512 * 1024;
/// Up to so many blocks of rows, weights are used for all of them while they come from memory.
const STREAMING_BLOCKS: usize = 4;
/// Rows from which packing the activations is shared out.
const SHARED_PACKING_ROWS: usize = 4 * ROWS_MAX;

/// The activation of a layer; what each means is said where it is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Activation {
    Gelu,
    GeluTanh,
    Relu,
    Silu,
}

/// What weights are kept in and products computed with; sums are f32, or exact in i32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// f32.
    F32,
    /// Weights and activations rounded to bf16.
    Bf16,
    /// Weights in 8 bits with a scale for each output, activations in 8 bits with a scale for each row of each call.
    Int8,
}

/// A dense layer's weight and bias, packed.
pub struct Linear {
    precision: Precision,
    inputs: usize,
    /// `[panels][steps][2]` lines.
    lines: Vec<Line>,
    outputs: usize,
    /// Of each panel's columns; zero beyond the end.
    bias: Vec<[f32; COLUMNS]>,
    /// For 8-bit weights: what a unit of each column's weights stands for; zero beyond the end.
    scales: Vec<[f32; COLUMNS]>,
    /// For 8-bit weights: what the activations' zero point adds to each sum.
    zero_point: Vec<[i32; COLUMNS]>,
}

impl Linear {
    /// Packs `weight` `[outputs, inputs]`, row-major; `bias` is `[outputs]`.
    ///
    /// # Panics
    /// When the sizes do not fit together, or are zero.
    pub fn new(weight: &[f32], bias: &[f32], inputs: usize, precision: Precision) -> Self {
        let outputs = bias.len();
        assert!(outputs > 0 && inputs > 0 && weight.len() == outputs * inputs);
        let (lines, scales) = match precision {
            Precision::F32 => (pack::panels_f32(weight, outputs, inputs), Vec::new()),
            Precision::Bf16 => (pack::panels_bf16(weight, outputs, inputs), Vec::new()),
            Precision::Int8 => pack::panels_int8(weight, outputs, inputs),
        };
        let mut linear = Self {
            precision,
            inputs,
            outputs,
            lines,
            bias: by_panel(bias),
            scales: by_panel(&scales),
            zero_point: Vec::new(),
        };
        if precision == Precision::Int8 {
            linear.zero_point = linear.panels().map(zero_point_share).collect();
        }
        linear
    }

    /// The width of its input.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// The width of its output.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    fn values_per_step(&self) -> usize {
        match self.precision {
            Precision::F32 => 1,
            Precision::Bf16 => 2,
            Precision::Int8 => 4,
        }
    }

    fn steps(&self) -> usize {
        self.inputs.div_ceil(self.values_per_step())
    }

    fn panels(&self) -> impl ExactSizeIterator<Item = &[Line]> {
        self.lines.chunks_exact(self.steps() * 2)
    }

    /// `activation(x · weightᵀ + bias)`: `x` is `[rows, inputs]`, the result `[rows, outputs]`.
    ///
    /// # Panics
    /// When `x` has another size.
    pub fn apply(&self, context: Context<'_>, x: &[f32], rows: usize, activation: Option<Activation>) -> Vec<f32> {
        assert_eq!(x.len(), rows * self.inputs);
        let mut y = vec![0.0; rows * self.outputs()];
        if rows > 0 {
            PACKED.with_borrow_mut(|packed| {
                let blocks = packed.fill(context, self, x, rows);
                self.multiply(context, packed, blocks, activation, &mut y);
            });
        }
        y
    }

    fn multiply(
        &self,
        context: Context<'_>,
        packed: &PackedRows,
        blocks: Blocks,
        activation: Option<Activation>,
        y: &mut [f32],
    ) {
        let (steps, outputs) = (self.steps(), self.outputs());
        let panel_lines = steps * 2;
        let panels = self.lines.len() / panel_lines;
        // A group of panels stays in the cache over all rows; but every thread gets some.
        let fit = (GROUP_BYTES / (panel_lines * size_of::<Line>())).max(1);
        let share = panels.div_ceil(4 * context.pool.threads());
        let group = fit.min(share).max(1);
        let y = Disjoint::new(y);
        let words = match self.precision {
            Precision::F32 => Words::F32,
            Precision::Bf16 => Words::Bf16,
            Precision::Int8 => Words::Int8,
        };
        let finish = |rows: std::ops::Range<usize>, panel: usize, sums: &Sums| {
            let first = panel * COLUMNS;
            let columns = first..outputs.min(first + COLUMNS);
            for (row, sums) in rows.zip(sums) {
                let place = row * outputs + columns.start..row * outputs + columns.end;
                // SAFETY: a task has its own columns.
                let y = unsafe { y.slice(place) };
                let bias = &self.bias[panel];
                match words {
                    Words::Int8 => {
                        let (zero, unit, scales) = (&self.zero_point[panel], packed.scales[row], &self.scales[panel]);
                        finish_int8(context.level, y, sums, zero, unit, scales, bias, activation);
                    }
                    _ => finish_f32(context.level, y, sums, bias, activation),
                }
            }
        };
        let multiply = |index: usize, panel: usize, ahead: &[Line], sums: &mut Sums| {
            let rows = blocks.range(index);
            let block = &packed.words[rows.start * steps..rows.end * steps];
            let lines = &self.lines[panel * panel_lines..][..panel_lines];
            tile(context.level, words, block, rows.len(), lines, ahead, sums);
            finish(rows, panel, sums);
        };
        context.pool.run(panels.div_ceil(group), |task| {
            let group = task * group..panels.min((task + 1) * group);
            let mut sums: Sums = [[0; COLUMNS]; ROWS_MAX];
            if blocks.count() > STREAMING_BLOCKS {
                for index in 0..blocks.count() {
                    group.clone().for_each(|panel| multiply(index, panel, &[], &mut sums));
                }
                return;
            }
            // Memory is what few rows wait for: each block fetches its part of the next panel meanwhile.
            for panel in group {
                for index in 0..blocks.count() {
                    let ahead = part(
                        &self.lines,
                        (panel + 1) * panel_lines,
                        panel_lines,
                        index,
                        blocks.count(),
                    );
                    multiply(index, panel, ahead, &mut sums);
                }
            }
        });
    }

    /// The rows `ids` of the weight, one after the other.
    ///
    /// # Panics
    /// When an id is not below the number of outputs.
    pub fn rows(&self, ids: &[u32]) -> Vec<f32> {
        let per_step = self.values_per_step();
        let mut values = Vec::with_capacity(ids.len() * self.inputs);
        for &id in ids {
            let id = id as usize;
            assert!(id < self.outputs());
            let panel = self.panels().nth(id / COLUMNS).expect("as many panels as outputs need");
            values.extend((0..self.inputs).map(|input| {
                let word = word_of(panel, input / per_step, id % COLUMNS);
                match self.precision {
                    Precision::F32 => f32::from_bits(word),
                    Precision::Bf16 => f32::from_bits(word >> (16 * (input % 2)) << 16),
                    Precision::Int8 => {
                        f32::from(word.to_le_bytes()[input % 4] as i8) * self.scales[id / COLUMNS][id % COLUMNS]
                    }
                }
            }));
        }
        values
    }
}

/// Values of the outputs, panel by panel.
fn by_panel(values: &[f32]) -> Vec<[f32; COLUMNS]> {
    let panel = |values: &[f32]| {
        let mut panel = [0.0; COLUMNS];
        panel[..values.len()].copy_from_slice(values);
        panel
    };
    values.chunks(COLUMNS).map(panel).collect()
}

/// Part `index` of `count` of the `len` lines from `start` on, as far as there are any.
fn part(lines: &[Line], start: usize, len: usize, index: usize, count: usize) -> &[Line] {
    let size = len.div_ceil(count);
    let from = (start + index * size).min(lines.len());
    &lines[from..lines.len().min(from + size)]
}

/// Activations as tiles read them; kept by each thread that starts layers, so that no layer allocates them.
struct PackedRows {
    words: Vec<u32>,
    /// What a unit of each row's 8-bit activations stands for.
    scales: Vec<f32>,
}

thread_local! {
    static PACKED: RefCell<PackedRows> = const {
        RefCell::new(PackedRows { words: Vec::new(), scales: Vec::new() })
    };
}

impl PackedRows {
    fn fill(&mut self, context: Context<'_>, linear: &Linear, x: &[f32], rows: usize) -> Blocks {
        let (inputs, steps) = (linear.inputs, linear.steps());
        let blocks = Blocks::new(rows);
        let needed = rows * steps;
        if self.words.len() < needed {
            self.words.resize(needed, 0);
        }
        if self.scales.len() < rows {
            self.scales.resize(rows, 0.0);
        }
        let words = Disjoint::new(&mut self.words[..needed]);
        let scales = Disjoint::new(&mut self.scales[..rows]);
        let level = context.level;
        let pack = |index: usize| {
            let range = blocks.range(index);
            let count = range.len();
            let x = &x[range.start * inputs..range.end * inputs];
            // SAFETY: every block has its own words and scales.
            let (words, scales) = unsafe {
                let words = words.slice(range.start * steps..range.end * steps);
                (words, scales.slice(range))
            };
            match linear.precision {
                Precision::F32 => pack::pack_f32(level, x, inputs, count, inputs, words),
                Precision::Bf16 => pack::pack_bf16(level, x, inputs, count, inputs, words),
                Precision::Int8 => pack::pack_int8(level, x, inputs, count, inputs, words, scales),
            }
        };
        match rows < SHARED_PACKING_ROWS {
            true => (0..blocks.count()).for_each(pack),
            false => context.pool.run(blocks.count(), pack),
        }
        blocks
    }
}
