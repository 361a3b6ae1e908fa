//! Attention from its projections on: the queries, keys and values of a head are computed where the head is.
//!
//! A task is a head of some texts. What it computes of queries, keys and values is as wide as the head, so it stays in the
//! task's core's second-level cache, and neither a matrix of them nor a second packing of the layer's input is ever there.

use std::cell::RefCell;
use std::ops::Range;

use crate::attention::{Head, Scratch, Segment, product_words};
use crate::finish::Place;
use crate::linear::PackedRows;
use crate::pack::{Blocks, COLUMNS, ROWS_MAX};
use crate::rows::Disjoint;
use crate::tile::{Block, Product, ZERO_SUMS};
use crate::{Context, Level, Linear, Precision, at_least};

/// Rows of a task at most, but for a text that is longer: weights are read once for all of them.
const TASK_ROWS: usize = 128;

/// `softmax(query(asking) · key(all)ᵀ / √size) · value(all)` for each head.
#[derive(Clone, Copy)]
pub struct SelfAttention<'a> {
    /// From the hidden width to the same.
    pub query: &'a Linear,
    /// From the hidden width to twice that, keys first.
    pub key_value: &'a Linear,
    /// Heads, side by side.
    pub heads: usize,
}

/// Texts that are one task for each head.
struct Group<'a> {
    segments: &'a [Segment],
    queries: Range<usize>,
    tokens: Range<usize>,
    /// Of the rows, those of the queries and those of the tokens.
    query_blocks: Range<usize>,
    token_blocks: Range<usize>,
}

/// A layer's input in blocks of rows, as tiles read them; no block has rows of two groups.
#[derive(Default)]
struct Input {
    packed: PackedRows,
    blocks: Vec<Range<usize>>,
}

/// What a thread needs for a task, kept so that nothing allocates.
#[derive(Default)]
struct Projected {
    query: Vec<f32>,
    key_value: Vec<f32>,
    scratch: Scratch,
}

thread_local! {
    static INPUTS: RefCell<[Input; 2]> = RefCell::default();
    static PROJECTED: RefCell<Projected> = RefCell::default();
}

impl SelfAttention<'_> {
    fn hidden(self) -> usize {
        self.query.outputs()
    }

    /// Whether [`apply`](Self::apply) can compute it, and has work for all threads: else attention is better computed from whole
    /// projections.
    pub fn is_worthwhile(self, context: Context<'_>, segments: &[Segment]) -> bool {
        let Self {
            query,
            key_value,
            heads,
        } = self;
        let is_alike = query.precision() == key_value.precision() && !query.is_tiled() && !key_value.is_tiled();
        let has_whole_panels = (self.hidden() / heads).is_multiple_of(COLUMNS);
        let tasks = heads * cut(segments).count();
        let rounds = tasks.div_ceil(context.pool.threads());
        is_alike && has_whole_panels && tasks * 10 >= rounds * context.pool.threads() * 9
    }

    /// Writes `[query rows, hidden]` to `output`; `asking` is `[query rows, hidden]` and `all` `[token rows, hidden]`. Where the
    /// two are the same slice, it is packed once.
    ///
    /// # Panics
    /// When the sizes do not fit together, the segments' rows are not all rows, one after the other, or it is not
    /// [worthwhile](Self::is_worthwhile).
    pub fn apply(self, context: Context<'_>, asking: &[f32], all: &[f32], segments: &[Segment], output: &mut [f32]) {
        let (hidden, heads) = (self.hidden(), self.heads);
        assert!(self.query.inputs() == hidden && self.key_value.inputs() == hidden);
        assert!(self.key_value.outputs() == 2 * hidden && hidden.is_multiple_of(heads * COLUMNS));
        assert!(self.is_worthwhile(context, segments) && output.len() == asking.len());
        let (mut queries, mut tokens) = (0, 0);
        for segment in segments {
            assert!(segment.queries.start == queries && segment.queries.end >= queries);
            assert!(segment.tokens.start == tokens && segment.tokens.end >= tokens);
            (queries, tokens) = (segment.queries.end, segment.tokens.end);
        }
        assert!(asking.len() == queries * hidden && all.len() == tokens * hidden);
        let is_same = std::ptr::eq(asking, all);
        INPUTS.with_borrow_mut(|[asked, known]| {
            asked.blocks.clear();
            known.blocks.clear();
            let groups: Vec<Group<'_>> = cut(segments)
                .map(|segments| {
                    let (first, last) = (&segments[0], &segments[segments.len() - 1]);
                    let queries = first.queries.start..last.queries.end;
                    let tokens = first.tokens.start..last.tokens.end;
                    Group {
                        segments,
                        query_blocks: asked.add_blocks(queries.clone()),
                        token_blocks: known.add_blocks(tokens.clone()),
                        queries,
                        tokens,
                    }
                })
                .collect();
            known.pack(context, self.key_value, all);
            if !is_same {
                asked.pack(context, self.query, asking);
            }
            let (asked, known) = (if is_same { &*known } else { &*asked }, &*known);
            let output = Disjoint::new(output);
            context.pool.run_with_next(groups.len() * heads, |task, next| {
                let (group, head) = (&groups[task / heads], task % heads);
                let next = next.map(|next| next % heads);
                PROJECTED.with_borrow_mut(|projected| {
                    self.project(context.level, group, head, next, [asked, known], projected);
                    self.attend(context.level, group, head, projected, &output);
                });
            });
        });
    }

    /// The queries, keys and values of a head; `next_head` is the one of the thread's next task.
    fn project(
        self,
        level: Level,
        group: &Group<'_>,
        head: usize,
        next_head: Option<usize>,
        inputs: [&Input; 2],
        projected: &mut Projected,
    ) {
        let size = self.hidden() / self.heads;
        let panels = size / COLUMNS;
        let value_panels = self.hidden() / COLUMNS;
        let [asked, known] = inputs;
        let query = (self.query, asked, &asked.blocks[group.query_blocks.clone()]);
        let key_value = (self.key_value, known, &known.blocks[group.token_blocks.clone()]);
        let query_rows = Disjoint::new(at_least(&mut projected.query, group.queries.len() * size, 0.0));
        let key_value_rows = Disjoint::new(at_least(&mut projected.key_value, group.tokens.len() * 2 * size, 0.0));
        let first = head * panels;
        // Where each panel's part of a row lies.
        let of = |part, first: usize, rows, stride: usize, column: usize| {
            (0..panels).map(move |panel| (part, first + panel, rows, stride, column + panel * COLUMNS))
        };
        let work = of(query, first, (&query_rows, group.queries.start), size, 0)
            .chain(of(key_value, first, (&key_value_rows, group.tokens.start), 2 * size, 0))
            .chain(of(
                key_value,
                value_panels + first,
                (&key_value_rows, group.tokens.start),
                2 * size,
                size,
            ));
        let then = next_head.map(|head| (self.query, head * panels));
        let mut next = work
            .clone()
            .skip(1)
            .map(|((linear, ..), panel, ..)| (linear, panel))
            .chain(then);
        let mut room = ZERO_SUMS;
        for ((linear, input, blocks), panel, (rows, start), stride, column) in work {
            let (depth, words) = (linear.depth(), linear.precision().words());
            let following = next.next();
            for (index, range) in blocks.iter().enumerate() {
                // Memory is what few rows wait for: each block fetches its part of the next panel meanwhile.
                let ahead = match following {
                    Some((linear, panel)) => linear.part_of_panel(panel, index, blocks.len()),
                    None => &[],
                };
                let words_of = depth.words_of(range.clone(), 0..depth.units);
                let product = Product {
                    level,
                    words,
                    block: Block::ByRow(&input.packed.words[words_of], range.len()),
                    panel: linear.panel(panel),
                    ahead,
                };
                let units = match linear.precision() {
                    Precision::Int8 => &input.packed.scales[range.clone()],
                    _ => &[],
                };
                let place = (range.start - start) * stride + column;
                // SAFETY: one tile after the other, by one thread.
                let place = unsafe { Place::new(rows, place, stride, COLUMNS) };
                product.finish(&linear.finish(panel, units), None, place, &mut room);
            }
        }
    }

    /// What the head's queries see.
    fn attend(
        self,
        level: Level,
        group: &Group<'_>,
        head: usize,
        projected: &mut Projected,
        output: &Disjoint<'_, f32>,
    ) {
        let hidden = self.hidden();
        let size = hidden / self.heads;
        for segment in group.segments {
            let row = |range: &Range<usize>, first: usize| range.start - first..range.end - first;
            let (queries, tokens) = (
                row(&segment.queries, group.queries.start),
                row(&segment.tokens, group.tokens.start),
            );
            let of_head = Head {
                hidden: size,
                start: 0,
                size,
                tokens: tokens.len(),
                words: product_words(level, self.query.precision()),
            };
            if queries.is_empty() {
                continue;
            }
            let Projected {
                query,
                key_value,
                scratch,
            } = projected;
            let query = &query[queries.start * size..queries.end * size];
            let key_value = &key_value[tokens.start * 2 * size..tokens.end * 2 * size];
            scratch.attend_all(level, of_head, query, key_value, |row, dimension, count| {
                let start = (segment.queries.start + row) * hidden + head * size + dimension;
                // SAFETY: a task has its own columns of its segments' rows, which no other segment has.
                unsafe { Place::new(output, start, hidden, count) }
            });
        }
    }
}

impl Input {
    /// Cuts rows into blocks of up to 12, and says which of all blocks these are.
    fn add_blocks(&mut self, rows: Range<usize>) -> Range<usize> {
        let (first, even) = (self.blocks.len(), Blocks::even(rows.len(), ROWS_MAX));
        let blocks = (0..even.count()).map(|index| even.range(index));
        self.blocks
            .extend(blocks.map(|block| rows.start + block.start..rows.start + block.end));
        first..self.blocks.len()
    }

    fn pack(&mut self, context: Context<'_>, linear: &Linear, x: &[f32]) {
        let Self { packed, blocks } = self;
        packed.fill_blocks(context, linear, x, blocks.len(), |index| blocks[index].clone());
    }
}

/// Texts one after the other, as many as a task takes.
fn cut(segments: &[Segment]) -> impl Iterator<Item = &[Segment]> {
    let mut rest = segments;
    std::iter::from_fn(move || {
        let mut rows = 0;
        let fits = |segment: &&Segment| {
            rows += segment.tokens.len();
            rows <= TASK_ROWS
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (group, others) = rest.split_at_checked(count)?;
        rest = others;
        Some(group)
    })
}
