//! What follows attention in an encoder layer: its output, then the feed-forward part, each with its residual and its
//! normalization.
//!
//! Every row goes its own way here. With many rows, a task takes some dozens of them all the way, so that what is in between,
//! four times as wide as everywhere else before the last layer, stays in its core's second-level cache, already in the order
//! that the next layer reads; only weights pass through that cache.

use std::cell::RefCell;
use std::ops::Range;

use crate::finish::Place;
use crate::pack::{self, Blocks, COLUMNS, GROUP, ROWS_MAX, Rows};
use crate::rows::{Disjoint, Norm, layer_norm, normalize_rows};
use crate::tile::{Block, Product, Words, ZERO_SUMS};
use crate::{Activation, Context, Linear, at_least};

/// Rows of a task times bytes of what is between the layers: less than half of the second-level cache, since panels of
/// weights pass through it too.
const TASK_BYTES: usize = 432 * 1024;
/// Rows of a task from which it is worthwhile that every thread reads all weights: found by measuring, on two cores.
const TASK_ROWS_MIN: usize = 16;
/// Rows that go through all layers at once where tasks are cut out of the layers instead. Bounds the memory that it takes.
const PART_ROWS: usize = 512;

/// `norm(x + down(activation(up(x))))` of `x = output_norm(residual + output(attended))`.
#[derive(Clone, Copy)]
pub struct AfterAttention<'a> {
    /// From the hidden width to the same.
    pub output: &'a Linear,
    /// After the residual has been added.
    pub output_norm: Norm<'a>,
    /// From the hidden width to the inner one.
    pub up: &'a Linear,
    /// Between the two.
    pub activation: Option<Activation>,
    /// And back.
    pub down: &'a Linear,
    /// After `x` has been added.
    pub norm: Norm<'a>,
}

/// What a thread needs, kept so that nothing allocates.
#[derive(Default)]
struct Scratch {
    /// Rows as wide as the hidden width, packed.
    packed: Vec<u32>,
    /// Rows of the inner width, packed.
    inner: Vec<u32>,
    /// What goes into the feed-forward part.
    narrow: Vec<f32>,
    /// What is between its layers, as it is.
    wide: Vec<f32>,
    /// What a unit of each row's 8-bit activations stands for.
    units: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl AfterAttention<'_> {
    /// Puts what becomes of `rows` `[rows, hidden]`, which attention gave, and `residual`, of the same shape, in their place.
    ///
    /// # Panics
    /// When the sizes do not fit together, or as [`Linear::apply`].
    pub fn apply(self, context: Context<'_>, rows: &mut [f32], residual: &[f32]) {
        let Self { output, up, down, .. } = self;
        let hidden = up.inputs();
        assert!(output.inputs() == hidden && output.outputs() == hidden);
        assert!(up.outputs() == down.inputs() && down.outputs() == hidden);
        for norm in [self.output_norm, self.norm] {
            assert!(norm.gamma.len() == hidden && norm.beta.len() == hidden);
        }
        assert!(residual.len() == rows.len() && rows.len().is_multiple_of(hidden));
        let count = rows.len() / hidden;
        let threads = context.pool.threads();
        // 8 bits can be packed when a row is known to its end.
        let values = if self.words() == Words::Bf16 { 2 } else { 1 };
        let fit = TASK_BYTES * values / (size_of::<f32>() * up.outputs());
        // In whole blocks: a few rows more would be one more block for every panel.
        let task_rows = (fit / ROWS_MAX).max(1) * ROWS_MAX;
        let is_alike = [output, up, down]
            .iter()
            .all(|layer| layer.precision() == up.precision() && !layer.is_tiled());
        if !is_alike || count < threads * TASK_ROWS_MIN {
            return self.layer_by_layer(context, rows, residual);
        }
        // As even as can be, and for all threads alike.
        let tasks = Blocks::parts(count, count.div_ceil(task_rows).next_multiple_of(threads));
        let rows = Disjoint::new(rows);
        context.pool.run(tasks.count(), |task| {
            let range = tasks.range(task);
            let place = range.start * hidden..range.end * hidden;
            let residual = &residual[place.clone()];
            // SAFETY: a task has its own rows.
            let rows = unsafe { rows.slice(place) };
            SCRATCH.with_borrow_mut(|scratch| self.task(context, rows, residual, scratch));
        });
    }

    fn words(self) -> Words {
        self.down.precision().words()
    }

    /// All threads share each layer.
    fn layer_by_layer(self, context: Context<'_>, rows: &mut [f32], residual: &[f32]) {
        let part = PART_ROWS * self.up.inputs();
        for (rows, residual) in rows.chunks_mut(part).zip(residual.chunks(part)) {
            let count = rows.len() / self.up.inputs();
            // Not borrowed while the pool works, since its tasks borrow theirs.
            let mut scratch = SCRATCH.take();
            let x = at_least(&mut scratch.narrow, rows.len(), 0.0);
            let inner = at_least(&mut scratch.wide, count * self.up.outputs(), 0.0);
            self.output.apply(context, rows, count, None, x);
            layer_norm(context, x, Some(residual), self.output_norm);
            self.up.apply(context, x, count, self.activation, inner);
            self.down.apply(context, inner, count, None, rows);
            layer_norm(context, rows, Some(x), self.norm);
            SCRATCH.set(scratch);
        }
    }

    /// All layers of a task's rows.
    fn task(self, context: Context<'_>, rows: &mut [f32], residual: &[f32], scratch: &mut Scratch) {
        let Self { output, up, down, .. } = self;
        let (level, words) = (context.level, self.words());
        let (hidden, width) = (up.inputs(), up.outputs());
        let count = rows.len() / hidden;
        let blocks = Blocks::even(count, ROWS_MAX);
        let Scratch {
            packed,
            inner,
            narrow,
            wide,
            units,
        } = scratch;
        let units = at_least(units, count, 0.0);
        let packed = at_least(packed, up.depth().words(count), 0);
        pack_blocks(context, words, rows, hidden, blocks, packed, units);
        let x = at_least(narrow, rows.len(), 0.0);
        multiply(context, output, packed, units, blocks, None, x);
        normalize_rows(level, x, Some(residual), self.output_norm);
        pack_blocks(context, words, x, hidden, blocks, packed, units);
        let inner = at_least(inner, down.depth().words(count), 0);
        if words == Words::Int8 {
            let wide = at_least(wide, count * width, 0.0);
            multiply(context, up, packed, units, blocks, self.activation, wide);
            pack_blocks(context, words, wide, width, blocks, inner, units);
        } else {
            let group = GROUP * words.values();
            let mut values = ZERO_SUMS;
            for_each_tile(context, up, packed, blocks, |rows, panel, product| {
                product.values(&up.finish(panel, &[]), self.activation, &mut values);
                let first = panel * COLUMNS;
                let columns = (width - first).min(COLUMNS);
                let groups = first / group..(first + columns).div_ceil(group);
                let place = &mut inner[down.depth().words_of(rows.clone(), groups)];
                let count = rows.len();
                let rows = Rows {
                    x: pack::as_f32(&values),
                    stride: COLUMNS,
                    inputs: columns,
                    count,
                    stored: count,
                };
                pack::pack_rows(level, words, rows, place, &mut []);
            });
        }
        multiply(context, down, inner, units, blocks, None, rows);
        normalize_rows(level, rows, Some(x), self.norm);
    }
}

/// Writes a layer's outputs of packed rows to `y`.
fn multiply(
    context: Context<'_>,
    linear: &Linear,
    packed: &[u32],
    units: &[f32],
    blocks: Blocks,
    activation: Option<Activation>,
    y: &mut [f32],
) {
    let outputs = linear.outputs();
    let y = Disjoint::new(y);
    let mut room = ZERO_SUMS;
    for_each_tile(context, linear, packed, blocks, |rows, panel, product| {
        let first = panel * COLUMNS;
        let columns = (outputs - first).min(COLUMNS);
        // SAFETY: one tile after the other, by one thread.
        let place = unsafe { Place::new(&y, rows.start * outputs + first, outputs, columns) };
        product.finish(&linear.finish(panel, &units[rows]), activation, place, &mut room);
    });
}

/// Hands the product of each block with each panel to `finish(rows, panel, product)`.
fn for_each_tile(
    context: Context<'_>,
    linear: &Linear,
    packed: &[u32],
    blocks: Blocks,
    mut finish: impl FnMut(Range<usize>, usize, Product<'_>),
) {
    let (depth, words) = (linear.depth(), linear.precision().words());
    for panel in 0..linear.outputs().div_ceil(COLUMNS) {
        for index in 0..blocks.count() {
            let rows = blocks.range(index);
            let product = Product {
                level: context.level,
                words,
                block: Block::ByRow(&packed[depth.words_of(rows.clone(), 0..depth.units)], rows.len()),
                panel: linear.panel(panel),
                // Each block fetches its part of the next panel meanwhile.
                ahead: linear.part_of_panel(panel + 1, index, blocks.count()),
            };
            finish(rows, panel, product);
        }
    }
}

fn pack_blocks(
    context: Context<'_>,
    words: Words,
    x: &[f32],
    width: usize,
    blocks: Blocks,
    packed: &mut [u32],
    units: &mut [f32],
) {
    let row_words = packed.len() / (x.len() / width);
    for index in 0..blocks.count() {
        let rows = blocks.range(index);
        let packed = &mut packed[rows.start * row_words..rows.end * row_words];
        let (x, units) = (&x[rows.start * width..], &mut units[rows.clone()]);
        let count = rows.len();
        let rows = Rows {
            x,
            stride: width,
            inputs: width,
            count,
            stored: count,
        };
        pack::pack_rows(context.level, words, rows, packed, units);
    }
}
