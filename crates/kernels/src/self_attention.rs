//! Self-attention from its projections on, one head at a time.
//!
//! A task is one head of some sequences. Its queries, keys and values are as wide as the head and stay in the
//! second-level cache of the core, so no matrix of them exists, and the input of the layer is packed once.

use std::cell::RefCell;
use std::ops::Range;

use crate::attention::{ByDistance, Head, Scratch, Sequence, attention_gemm};
use crate::context::Context;
use crate::disjoint::{Disjoint, OutputTile};
use crate::gemm::Gemm;
use crate::kernel::{Block, Operands};
use crate::layout::{KLayout, MR, NR, PlacedBlock, Tile};
use crate::linear::{Linear, PackedRows};
use crate::rotary::{Rotation, rotate_rows};
use crate::scratch::grow_to;

/// Most rows of a task, except for a longer sequence. Weights are read once for all rows of a task.
const TASK_ROWS_MAX: usize = 128;
/// The same for AMX, which is faster and thus waits for weights sooner.
const AMX_TASK_ROWS_MAX: usize = 256;

/// `softmax(query(query_states) · key(kv_states)ᵀ / √size) · value(kv_states)` for each head.
#[derive(Clone, Copy)]
pub struct SelfAttention<'a> {
    /// `[hidden, hidden]`.
    pub query: &'a Linear,
    /// `[2 * hidden, hidden]`, keys first.
    pub key_value: &'a Linear,
    pub heads: usize,
    pub rotary: Option<RotaryPositions<'a>>,
    pub distance: Option<ByDistance<'a>>,
}

/// The rotation of queries and keys by their positions.
#[derive(Clone, Copy, Debug)]
pub struct RotaryPositions<'a> {
    pub rotation: Rotation<'a>,
    /// One for each query row.
    pub queries: &'a [u32],
    /// One for each token row.
    pub tokens: &'a [u32],
}

/// Sequences that form one task for each head.
struct Group<'a> {
    sequences: &'a [Sequence],
    queries: Range<usize>,
    tokens: Range<usize>,
    /// Blocks of the query rows.
    query_blocks: Range<usize>,
    /// Blocks of the token rows.
    token_blocks: Range<usize>,
}

/// The packed input of the layer; no block has rows of two groups.
#[derive(Default)]
struct Input {
    packed: PackedRows,
    blocks: Vec<PlacedBlock>,
}

/// Buffers of a thread.
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

    /// True if [`apply`](Self::apply) supports these layers and has work for all threads. If not, compute the
    /// projections and [`attention`](crate::attention()).
    pub fn is_worthwhile(self, context: Context<'_>, sequences: &[Sequence]) -> bool {
        let Self {
            query,
            key_value,
            heads,
            ..
        } = self;
        let is_alike = query.precision() == key_value.precision();
        let has_whole_panels = (self.hidden() / heads).is_multiple_of(NR);
        let tasks = heads * groups(sequences, self.task_rows_max(context)).count();
        let rounds = tasks.div_ceil(context.pool.threads());
        is_alike && has_whole_panels && tasks * 10 >= rounds * context.pool.threads() * 9
    }

    fn task_rows_max(self, context: Context<'_>) -> usize {
        match self.query.layout(context.isa).is_amx() {
            true => AMX_TASK_ROWS_MAX,
            false => TASK_ROWS_MAX,
        }
    }

    /// Writes `[query rows, hidden]` to `output`; `query_states` is `[query rows, hidden]` and `kv_states`
    /// `[token rows, hidden]`. If they are the same slice, it is packed once.
    ///
    /// # Panics
    /// If the sizes do not match, if the rows of the sequences are not all rows, in order, or if it is not
    /// [worthwhile](Self::is_worthwhile).
    pub fn apply(
        self,
        context: Context<'_>,
        query_states: &[f32],
        kv_states: &[f32],
        sequences: &[Sequence],
        output: &mut [f32],
    ) {
        let (hidden, heads) = (self.hidden(), self.heads);
        assert!(self.query.inputs() == hidden && self.key_value.inputs() == hidden);
        assert!(self.key_value.outputs() == 2 * hidden && hidden.is_multiple_of(heads * NR));
        assert!(self.is_worthwhile(context, sequences) && output.len() == query_states.len());
        let (mut queries, mut tokens) = (0, 0);
        for sequence in sequences {
            assert!(sequence.queries.start == queries && sequence.queries.end >= queries);
            assert!(sequence.tokens.start == tokens && sequence.tokens.end >= tokens);
            (queries, tokens) = (sequence.queries.end, sequence.tokens.end);
        }
        assert!(query_states.len() == queries * hidden && kv_states.len() == tokens * hidden);
        if let Some(distance) = self.distance {
            distance.check(heads, sequences);
        }
        if let Some(rotary) = self.rotary {
            assert!(rotary.queries.len() == queries && rotary.tokens.len() == tokens);
            rotary.rotation.check(hidden / heads);
        }
        let is_same = std::ptr::eq(query_states, kv_states);
        let layout = self.query.layout(context.isa);
        INPUTS.with_borrow_mut(|[query_input, kv_input]| {
            query_input.blocks.clear();
            kv_input.blocks.clear();
            let groups: Vec<Group<'_>> = groups(sequences, self.task_rows_max(context))
                .map(|sequences| {
                    let (first, last) = (&sequences[0], &sequences[sequences.len() - 1]);
                    let queries = first.queries.start..last.queries.end;
                    let tokens = first.tokens.start..last.tokens.end;
                    Group {
                        sequences,
                        query_blocks: query_input.add_blocks(queries.clone(), layout),
                        token_blocks: kv_input.add_blocks(tokens.clone(), layout),
                        queries,
                        tokens,
                    }
                })
                .collect();
            kv_input.pack(context, self.key_value, kv_states);
            if !is_same {
                query_input.pack(context, self.query, query_states);
            }
            let kv_input = &*kv_input;
            let query_input = if is_same { kv_input } else { &*query_input };
            let output = Disjoint::new(output);
            context.pool.run_with_prefetch(groups.len() * heads, |task, prefetch| {
                let (group, head) = (&groups[task / heads], task % heads);
                let next_head = prefetch.map(|task| task % heads);
                let _tiles = Gemm::new(context.isa, self.query.precision()).tiles();
                PROJECTED.with_borrow_mut(|projected| {
                    self.project(context, group, head, next_head, [query_input, kv_input], projected);
                    self.attend(context, group, head, projected, &output);
                });
            });
        });
    }

    /// Computes the queries, keys and values of a head. `next_head` is that of the thread's next task.
    fn project(
        self,
        context: Context<'_>,
        group: &Group<'_>,
        head: usize,
        next_head: Option<usize>,
        [query_input, kv_input]: [&Input; 2],
        projected: &mut Projected,
    ) {
        let size = self.hidden() / self.heads;
        let panels = size / NR;
        let part = |linear, input, blocks: &Range<usize>, rows: &Range<usize>, first_output, first_column| Part {
            linear,
            input,
            blocks: blocks.clone(),
            first_row: rows.start,
            first_panel: first_output / NR + head * panels,
            first_column,
        };
        let (kv_blocks, tokens) = (&group.token_blocks, &group.tokens);
        let query = part(self.query, query_input, &group.query_blocks, &group.queries, 0, 0);
        let key = part(self.key_value, kv_input, kv_blocks, tokens, 0, 0);
        let value = part(self.key_value, kv_input, kv_blocks, tokens, self.hidden(), size);
        let after_key = (value.linear, value.first_panel);
        let after_query = (key.linear, key.first_panel);
        let after_value = next_head.map(|head| (self.query, head * panels));
        let rows = grow_to(&mut projected.query, group.queries.len() * size, 0.0);
        query.project(context, panels, Some(after_query), rows, size);
        let rows = grow_to(&mut projected.key_value, tokens.len() * 2 * size, 0.0);
        key.project(context, panels, Some(after_key), rows, 2 * size);
        value.project(context, panels, after_value, rows, 2 * size);
        if let Some(rotary) = self.rotary {
            let rotate = |rows: &mut [f32], columns, positions: &[u32], range: &Range<usize>| {
                let positions = &positions[range.clone()];
                rotate_rows(context.isa, rows, columns, 1, rotary.rotation, positions);
            };
            rotate(rows, 2 * size, rotary.tokens, tokens);
            let rows = &mut projected.query[..group.queries.len() * size];
            rotate(rows, size, rotary.queries, &group.queries);
        }
    }

    /// Computes the attention of a head.
    fn attend(
        self,
        context: Context<'_>,
        group: &Group<'_>,
        head: usize,
        projected: &mut Projected,
        output: &Disjoint<'_, f32>,
    ) {
        let hidden = self.hidden();
        let size = hidden / self.heads;
        let gemm = attention_gemm(context.isa, self.query.precision());
        let Projected {
            query,
            key_value,
            scratch,
        } = projected;
        for sequence in group.sequences {
            let relative = |range: &Range<usize>, first: usize| range.start - first..range.end - first;
            let queries = relative(&sequence.queries, group.queries.start);
            let tokens = relative(&sequence.tokens, group.tokens.start);
            if queries.is_empty() {
                continue;
            }
            let columns = Head {
                hidden: size,
                start: 0,
                size,
                tokens: tokens.len(),
                distance: self.distance.map(|distance| distance.of(head, sequence)),
            };
            let query = &query[queries.start * size..queries.end * size];
            let key_value = &key_value[tokens.start * 2 * size..tokens.end * 2 * size];
            scratch.attend(
                context.isa,
                gemm,
                columns,
                query,
                key_value,
                |row, dimension, columns| {
                    let start = (sequence.queries.start + row) * hidden + head * size + dimension;
                    // SAFETY: each task has its own columns of the rows of its sequences, which no other sequence has.
                    unsafe { OutputTile::shared(output, start, hidden, columns) }
                },
            );
        }
    }
}

/// The queries, the keys or the values of a head.
struct Part<'a> {
    linear: &'a Linear,
    input: &'a Input,
    /// Blocks of the input.
    blocks: Range<usize>,
    /// The row of the input that becomes the first row of the output.
    first_row: usize,
    first_panel: usize,
    /// The column of the output.
    first_column: usize,
}

impl Part<'_> {
    /// Writes the projection of `panels` panels to `rows`, `stride` values apart. `next` is the layer and panel that
    /// the thread reads next.
    fn project(
        &self,
        context: Context<'_>,
        panels: usize,
        next: Option<(&Linear, usize)>,
        rows: &mut [f32],
        stride: usize,
    ) {
        let Self { linear, input, .. } = *self;
        let gemm = Gemm::new(context.isa, linear.precision());
        let layout = linear.layout(context.isa);
        let blocks = &input.blocks[self.blocks.clone()];
        let mut tile = Tile::ZERO;
        let mut compute = |index: usize, block: &PlacedBlock, prefetch| {
            let panel = self.first_panel + index;
            let range = &block.rows;
            let elements = layout.placed_range(block, 0..layout.k_blocks);
            let operands = Operands {
                block: Block::Rows {
                    elements: &input.packed.elements()[elements],
                    rows: range.len(),
                },
                panel: linear.panel(panel),
                prefetch,
                accumulate: false,
            };
            let epilogue = linear.epilogue(panel, input.packed.scales_of(linear.precision(), range.clone()));
            let first = (range.start - self.first_row) * stride + self.first_column + index * NR;
            let output = OutputTile::new(rows, first, stride, NR);
            gemm.store(&operands, &epilogue, None, output, &mut tile);
        };
        let part_of = |next, index, count| match next {
            Some((linear, panel)) => Linear::part_of_panel(linear, panel, index, count),
            None => &[][..],
        };
        let panel_after = |index| match index + 1 < panels {
            true => Some((linear, self.first_panel + index + 1)),
            false => next,
        };
        if layout.block_rows > MR && !layout.is_amx() {
            // A large block stays in the second-level cache.
            for (number, block) in blocks.iter().enumerate() {
                for index in 0..panels {
                    let is_first = number == 0 || index + 1 == panels && number + 1 == blocks.len();
                    let prefetch = if is_first {
                        part_of(panel_after(index), 0, 1)
                    } else {
                        &[]
                    };
                    compute(index, block, prefetch);
                }
            }
            return;
        }
        for index in 0..panels {
            for (number, block) in blocks.iter().enumerate() {
                // Few rows wait for memory, so each block prefetches its part of the next panel.
                compute(index, block, part_of(panel_after(index), number, blocks.len()));
            }
        }
    }
}

impl Input {
    /// Cuts rows into blocks and returns their indices among all blocks.
    fn add_blocks(&mut self, rows: Range<usize>, layout: KLayout) -> Range<usize> {
        let (first, some) = (self.blocks.len(), layout.row_blocks(rows.len()));
        let start = self
            .blocks
            .last()
            .map_or(0, |last| last.start + layout.stored_rows(last.rows.len()));
        let block = |index| {
            let block = some.range(index);
            PlacedBlock {
                rows: rows.start + block.start..rows.start + block.end,
                start: start + block.start,
            }
        };
        self.blocks.extend((0..some.count()).map(block));
        first..self.blocks.len()
    }

    fn pack(&mut self, context: Context<'_>, linear: &Linear, x: &[f32]) {
        let Self { packed, blocks } = self;
        packed.fill(context, linear, x, blocks.len(), |index| blocks[index].clone());
    }
}

/// Adjacent sequences, as many as a task of `rows_max` rows takes.
fn groups(sequences: &[Sequence], rows_max: usize) -> impl Iterator<Item = &[Sequence]> {
    let mut rest = sequences;
    std::iter::from_fn(move || {
        let mut rows = 0;
        let fits = |sequence: &&Sequence| {
            rows += sequence.tokens.len();
            rows <= rows_max
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (group, others) = rest.split_at_checked(count)?;
        rest = others;
        Some(group)
    })
}
