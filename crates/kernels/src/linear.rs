//! Dense layers: a matrix product over packed weights, then bias and activation while the sums are warm.

use std::cell::RefCell;
use std::ops::Range;

use crate::amx::{self, Configured, TileSums};
use crate::finish::{self, Finish, FinishInt8, Place};
use crate::pack::{self, Blocks, COLUMNS, Line, ROWS_MAX, Rows, word_of};
use crate::plan::{Depth, Plan};
use crate::rows::Disjoint;
use crate::tile::{Block, Product, Words, zero_point_share};
use crate::{Context, Level, at_least};

/// Rows from which packing the activations is shared out.
const SHARED_PACKING_ROWS: usize = ROWS_MAX + 1;

/// The activation of a layer; what each means is said where it is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

impl Precision {
    pub(crate) fn words(self) -> Words {
        match self {
            Self::F32 => Words::F32,
            Self::Bf16 => Words::Bf16,
            Self::Int8 => Words::Int8,
        }
    }
}

/// A dense layer's weight and bias, packed.
pub struct Linear {
    precision: Precision,
    inputs: usize,
    depth: Depth,
    /// Panels, one after the other.
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
    /// Packs `weight` `[outputs, inputs]`, row-major, for the instructions of `level`; `bias` is `[outputs]`. With AMX,
    /// f32 weights are kept as two bf16, that is to 16 bits.
    ///
    /// # Panics
    /// When the sizes do not fit together, or are zero.
    pub fn new(level: Level, weight: &[f32], bias: &[f32], inputs: usize, precision: Precision) -> Self {
        let outputs = bias.len();
        assert!(outputs > 0 && inputs > 0 && weight.len() == outputs * inputs);
        let is_tiled = is_tiled(level);
        let depth = Depth::new(precision.words(), inputs, is_tiled);
        let steps = depth.units * depth.unit_lines / 2;
        let (lines, scales) = match precision {
            Precision::F32 if is_tiled => (amx::panels_split(weight, outputs, inputs), Vec::new()),
            Precision::F32 => (pack::panels_f32(weight, outputs, inputs, steps), Vec::new()),
            Precision::Bf16 => (pack::panels_bf16(weight, outputs, inputs, steps), Vec::new()),
            Precision::Int8 => pack::panels_int8(weight, outputs, inputs, steps),
        };
        let mut linear = Self {
            precision,
            inputs,
            depth,
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

    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }

    pub(crate) fn depth(&self) -> Depth {
        self.depth
    }

    /// Whether it is packed for AMX.
    pub(crate) fn is_tiled(&self) -> bool {
        self.depth.is_tiled
    }

    pub(crate) fn panel(&self, index: usize) -> &[Line] {
        &self.lines[self.depth.lines_of(index, 0..self.depth.units)]
    }

    /// Part `index` of `count` of a panel, if there is one.
    pub(crate) fn part_of_panel(&self, panel: usize, index: usize, count: usize) -> &[Line] {
        let len = self.depth.panel_lines();
        part(&self.lines, panel * len, len, index, count)
    }

    /// What becomes of a panel's sums; `units` are those of the rows, for 8 bits.
    pub(crate) fn finish<'a>(&'a self, panel: usize, units: &'a [f32]) -> Finish<'a> {
        let bias = &self.bias[panel];
        match self.precision {
            Precision::F32 | Precision::Bf16 => Finish::Bias(bias),
            Precision::Int8 => Finish::Int8(FinishInt8 {
                zero_point: &self.zero_point[panel],
                units,
                scales: &self.scales[panel],
                bias,
            }),
        }
    }

    fn panels(&self) -> impl ExactSizeIterator<Item = &[Line]> {
        self.lines.chunks_exact(self.depth.panel_lines())
    }

    /// Writes `activation(x · weightᵀ + bias)` to `y`: `x` is `[rows, inputs]`, `y` `[rows, outputs]`.
    ///
    /// # Panics
    /// When one has another size, or when one of the level here and that of [`new`](Self::new) is AMX and the other is not.
    pub fn apply(&self, context: Context<'_>, x: &[f32], rows: usize, activation: Option<Activation>, y: &mut [f32]) {
        assert!(x.len() == rows * self.inputs && y.len() == rows * self.outputs);
        assert_eq!(
            self.depth.is_tiled,
            is_tiled(context.level),
            "packed for other instructions"
        );
        if rows > 0 {
            PACKED.with_borrow_mut(|packed| {
                let blocks = packed.fill(context, self, x, rows);
                self.multiply(context, packed, blocks, activation, y);
            });
        }
    }

    fn multiply(
        &self,
        context: Context<'_>,
        packed: &PackedRows,
        blocks: Blocks,
        activation: Option<Activation>,
        y: &mut [f32],
    ) {
        let (depth, outputs) = (self.depth, self.outputs());
        let words = self.precision.words();
        let panels = self.lines.len() / depth.panel_lines();
        let plan = Plan::new(depth, panels, blocks, context.pool.threads());
        let y = Disjoint::new(y);
        // Sums that begin behind the first unit of depth go on from those that are there.
        let multiply = |tiles: Option<&Configured>,
                        index: usize,
                        panel: usize,
                        slice: Range<usize>,
                        ahead: &[Line],
                        sums: &mut TileSums| {
            let rows = blocks.range(index);
            let block = &packed.words[depth.words_of(rows.clone(), slice.clone())];
            let lines = &self.lines[depth.lines_of(panel, slice.clone())];
            let first = panel * COLUMNS;
            let columns = (outputs - first).min(COLUMNS);
            // SAFETY: a task has its own rows and columns.
            let place = unsafe { Place::new(&y, rows.start * outputs + first, outputs, columns) };
            let units = match words {
                Words::Int8 => &packed.scales[rows.clone()],
                _ => &[],
            };
            let how = self.finish(panel, units);
            let Some(tiles) = tiles else {
                let product = Product {
                    level: context.level,
                    words,
                    block: Block::ByRow(block, rows.len()),
                    panel: lines,
                    ahead,
                };
                let room = sums.0.first_chunk_mut().expect("room for the largest block");
                return product.finish(&how, activation, place, room);
            };
            amx::tile(tiles, words, block, lines, ahead, slice.start > 0, sums);
            if slice.end == depth.units {
                let sums = &mut sums.0[..rows.len()];
                finish::finish(context.level, sums, how);
                finish::activate(context.level, sums, activation, words != Words::F32);
                finish::write_rows(context.level, place, sums);
            }
        };
        // `then` is the first panel of the thread's next task.
        let stream =
            |tiles: Option<&Configured>, group: Range<usize>, then: Option<usize>, sums: &mut Vec<TileSums>| {
                let sums = &mut at_least(sums, 1, TileSums::ZERO)[0];
                let whole = || 0..depth.units;
                let following = group.clone().skip(1).map(Some).chain([then]);
                for (panel, next) in group.zip(following) {
                    for index in 0..blocks.count() {
                        // Memory is what few rows wait for: each block fetches its part of the next panel meanwhile.
                        let ahead = next.map_or(&[][..], |next| self.part_of_panel(next, index, blocks.count()));
                        multiply(tiles, index, panel, whole(), ahead, sums);
                    }
                }
            };
        let reuse = |tiles: Option<&Configured>, group: Range<usize>, chunk: Range<usize>, sums: &mut Vec<TileSums>| {
            // Sums that do not go on from one slice to the next need no place of their own.
            let is_sliced = plan.slice < depth.units;
            let count = if is_sliced { group.len() * chunk.len() } else { 1 };
            let sums = at_least(sums, count, TileSums::ZERO);
            for start in (0..depth.units).step_by(plan.slice) {
                let slice = start..depth.units.min(start + plan.slice);
                for (i, index) in chunk.clone().enumerate() {
                    for (j, panel) in group.clone().enumerate() {
                        let sums = &mut sums[if is_sliced { i * group.len() + j } else { 0 }];
                        // With AMX, the first block would wait for the weights.
                        let fetches = depth.is_tiled && i == 0 && panel + 1 < group.end;
                        let ahead = match fetches {
                            true => &self.lines[depth.lines_of(panel + 1, slice.clone())],
                            false => &[],
                        };
                        multiply(tiles, index, panel, slice.clone(), ahead, sums);
                    }
                }
            }
        };
        context.pool.run_with_next(plan.tasks(), |task, next| {
            let tiles = depth.is_tiled.then(Configured::new);
            let (group, chunk) = plan.task(task);
            let then = next.map(|next| plan.task(next).0.start);
            SUMS.with_borrow_mut(|sums| match plan.is_streaming {
                true => stream(tiles.as_ref(), group, then, sums),
                false => reuse(tiles.as_ref(), group, chunk, sums),
            });
        });
    }

    /// The rows `ids` of the weight, one after the other.
    ///
    /// # Panics
    /// When an id is not below the number of outputs.
    pub fn rows(&self, ids: &[u32]) -> Vec<f32> {
        let mut values = Vec::with_capacity(ids.len() * self.inputs);
        for &id in ids {
            let id = id as usize;
            assert!(id < self.outputs());
            let (index, column) = (id / COLUMNS, id % COLUMNS);
            let panel = self.panels().nth(index).expect("as many panels as outputs need");
            let half = |word: u32, input: usize| f32::from_bits(word >> (16 * (input % 2)) << 16);
            values.extend((0..self.inputs).map(|input| match self.precision {
                Precision::F32 if self.depth.is_tiled => {
                    let [high, low] = amx::words_of(panel, input / 2, column);
                    half(high, input) + half(low, input)
                }
                Precision::F32 => f32::from_bits(word_of(panel, input, column)),
                Precision::Bf16 => half(word_of(panel, input / 2, column), input),
                Precision::Int8 => {
                    let word = word_of(panel, input / 4, column);
                    f32::from(word.to_le_bytes()[input % 4] as i8) * self.scales[index][column]
                }
            }));
        }
        values
    }
}

/// Whether layers are packed for AMX.
fn is_tiled(level: Level) -> bool {
    level >= Level::Amx
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
#[derive(Default)]
pub(crate) struct PackedRows {
    pub words: Vec<u32>,
    /// What a unit of each row's 8-bit activations stands for.
    pub scales: Vec<f32>,
}

thread_local! {
    static PACKED: RefCell<PackedRows> = RefCell::default();
    /// Of the task that the thread is at.
    static SUMS: RefCell<Vec<TileSums>> = const { RefCell::new(Vec::new()) };
}

impl PackedRows {
    fn fill(&mut self, context: Context<'_>, linear: &Linear, x: &[f32], rows: usize) -> Blocks {
        let blocks = linear.depth.blocks(rows);
        self.fill_blocks(context, linear, x, blocks.count(), |index| blocks.range(index));
        blocks
    }

    /// Packs `count` blocks of rows, which `range` tells: one after the other, and all rows of `x` together.
    pub fn fill_blocks(
        &mut self,
        context: Context<'_>,
        linear: &Linear,
        x: &[f32],
        count: usize,
        range: impl Fn(usize) -> Range<usize> + Sync,
    ) {
        let (inputs, depth) = (linear.inputs, linear.depth);
        let rows = x.len() / inputs;
        let needed = depth.words(rows);
        let words = Disjoint::new(at_least(&mut self.words, needed, 0));
        let scales = Disjoint::new(at_least(&mut self.scales, rows, 0.0));
        let level = context.level;
        let pack = |index: usize| {
            let range = range(index);
            let count = range.len();
            let x = &x[range.start * inputs..range.end * inputs];
            // SAFETY: every block has its own words and scales.
            let (words, scales) = unsafe {
                let words = words.slice(depth.words_of(range.clone(), 0..depth.units));
                (words, scales.slice(range))
            };
            let stored = depth.stored_rows(count);
            match linear.precision {
                Precision::F32 if depth.is_tiled => amx::split_rows(level, x, inputs, stored, words),
                precision => {
                    let kind = precision.words();
                    let rows = Rows {
                        x,
                        stride: inputs,
                        inputs,
                        count,
                        stored,
                    };
                    pack::pack_rows(level, kind, rows, words, scales);
                }
            }
        };
        match rows < SHARED_PACKING_ROWS {
            true => (0..count).for_each(pack),
            false => context.pool.run(count, pack),
        }
    }
}
