//! Biases and softmax attention within sequences, without padding and in one launch. The influence of distance, a
//! window or a bias, is an option of the kernel.
//!
//! A cube takes a tile of a sequence's query rows and one head, a unit each row. Keys and values pass through shared
//! memory, and the softmax is computed online: <https://arxiv.org/abs/1805.02867>.

use burn::tensor::{DType, Shape};
use cubecl::prelude::*;

use super::{Primitive, element, empty};

/// Query rows of a tile.
pub const TILE_ROWS: u32 = 32;
/// Fields of a tile: begin and end of its query rows, begin and end of its key rows, and the token of each query row.
pub const TILE_FIELDS: usize = 4 + TILE_ROWS as usize;
/// Larger windows are no windows; the sum with a token's row must fit into 32 bits.
const WINDOW_MAX: usize = 1 << 30;
/// Elements of keys, and as many of values, in shared memory at once: 16 KiB together.
const SHARED_NUMBERS: u32 = 2048;

/// Projected queries, keys and values, and the biases to add to them.
pub struct Projected {
    /// `[query rows, hidden or more]`: the first columns are the query's.
    pub query: Primitive,
    /// `[tokens, 2 * hidden or more]`, keys before values.
    pub key_value: Primitive,
    /// Columns of `key_value` before the keys.
    pub key_column: usize,
    /// Width of all heads.
    pub hidden: usize,
    pub biases: Added,
}

impl Projected {
    /// Queries, keys and values apart: `[query rows, hidden]` and `[tokens, 2 * hidden]`.
    pub fn apart(query: Primitive, key_value: Primitive, biases: Added) -> Self {
        Self {
            hidden: query.meta.shape()[1],
            query,
            key_value,
            key_column: 0,
            biases,
        }
    }

    /// Queries, keys and values of every token side by side, `[tokens, 3 * hidden]`.
    pub fn joined(all: Primitive, biases: Added) -> Self {
        let hidden = all.meta.shape()[1] / 3;
        Self {
            query: all.clone(),
            key_value: all,
            key_column: hidden,
            hidden,
            biases,
        }
    }
}

/// Values that are added to queries and keys, or to their scores.
pub enum Added {
    Nothing,
    /// To queries, and to keys and values: `[hidden]` and `[2 * hidden]`, of one type.
    Biases(Box<[Primitive; 2]>),
    /// To the scores: `[2 * span + 1, heads]`, as of [`RelativeBias`](crate::backend::RelativeBias).
    ByDistance(Box<Primitive>),
}

/// `tiles` is `[tiles, TILE_FIELDS]`, the result `[query rows, hidden]` in `dtype`; all contiguous.
pub fn attention(
    projected: Projected,
    tiles: Primitive,
    tile_count: usize,
    heads: usize,
    window: Option<usize>,
    dtype: DType,
) -> Primitive {
    let Projected {
        query,
        key_value,
        key_column,
        hidden,
        biases,
    } = projected;
    let rows = query.meta.shape()[0];
    let widths = [&query, &key_value].map(|of| of.meta.shape()[1] as u32);
    let output = empty(&query, Shape::new([rows, hidden]), dtype);
    let head_size = hidden / heads;
    let client = query.client.clone();
    let has_biases = matches!(biases, Added::Biases(_));
    // Of a table by distance the last row.
    let last_row = match &biases {
        Added::ByDistance(table) => table.meta.shape()[0] as i32 - 1,
        _ => 0,
    };
    let has_distance_bias = matches!(biases, Added::ByDistance(_));
    // A kernel's arguments are fixed: an absent one is another buffer, which is not read.
    let (query_bias, key_value_bias) = match biases {
        Added::Nothing => (query.clone(), query.clone()),
        Added::Biases(biases) => (*biases).into(),
        Added::ByDistance(table) => ((*table).clone(), *table),
    };
    let dtypes = [&query, &key_value, &query_bias, &output].map(|of| element(of.dtype));
    attention_kernel::launch(
        &client,
        CubeCount::Static(heads as u32, tile_count as u32, 1),
        CubeDim::new_1d(TILE_ROWS),
        query.into_tensor_arg(),
        key_value.into_tensor_arg(),
        query_bias.into_tensor_arg(),
        key_value_bias.into_tensor_arg(),
        tiles.into_tensor_arg(),
        output.clone().into_tensor_arg(),
        1.0 / (head_size as f32).sqrt(),
        window.unwrap_or(0).min(WINDOW_MAX) as u32,
        last_row,
        hidden as u32,
        head_size as u32,
        widths[0],
        widths[1],
        key_column as u32,
        has_biases,
        window.is_some(),
        has_distance_bias,
        dtypes,
    );
    output
}

#[cube(launch)]
fn attention_kernel<Q: Float, K: Float, G: Float, Y: Float>(
    query: &Tensor<Q>,
    key_value: &Tensor<K>,
    query_bias: &Tensor<G>,
    key_value_bias: &Tensor<G>,
    tiles: &Tensor<u32>,
    output: &mut Tensor<Y>,
    scale: f32,
    window: u32,
    last_row: i32,
    #[comptime] hidden: u32,
    #[comptime] head_size: u32,
    #[comptime] query_width: u32,
    #[comptime] key_width: u32,
    #[comptime] key_column: u32,
    #[comptime] has_biases: bool,
    #[comptime] has_window: bool,
    #[comptime] has_distance_bias: bool,
    #[define(Q, K, G, Y)] _dtypes: [ElemType; 4],
) {
    let keys_at_once = comptime!((SHARED_NUMBERS / head_size).clamp(1, 64));
    let tile = CUBE_POS_Y * TILE_FIELDS as u32;
    let query_begin = tiles[tile as usize];
    let query_end = tiles[(tile + 1) as usize];
    let mut token_begin = tiles[(tile + 2) as usize];
    let mut token_end = tiles[(tile + 3) as usize];
    if has_window {
        // Query tokens ascend within a tile.
        let first = tiles[(tile + 4) as usize];
        let last = tiles[(tile + 3 + query_end - query_begin) as usize];
        token_begin = max(token_begin, max(first, window) - window);
        token_end = min(token_end, last + window + 1);
    }
    let head = CUBE_POS_X * head_size;
    let heads = comptime!(hidden / head_size);
    // Units past the tile's end compute its last row and write nothing: all units must reach the barriers.
    let row = query_begin + UNIT_POS_X;
    let query_row = min(row, query_end - 1);
    let query_token = tiles[(tile + 4 + query_row - query_begin) as usize];

    let mut query_values = Array::<f32>::new(head_size as usize);
    let mut context = Array::<f32>::new(head_size as usize);
    #[unroll]
    for i in 0..head_size {
        let mut value = f32::cast_from(query[(query_row * query_width + head + i) as usize]);
        if has_biases {
            value += f32::cast_from(query_bias[(head + i) as usize]);
        }
        query_values[i as usize] = value * scale;
        context[i as usize] = 0.0f32;
    }
    let mut keys = Shared::<[f32]>::new_slice((keys_at_once * head_size) as usize);
    let mut values = Shared::<[f32]>::new_slice((keys_at_once * head_size) as usize);
    let mut largest = 0.0f32;
    let mut sum = 0.0f32;

    let mut token = token_begin;
    while token < token_end {
        let count = min(keys_at_once, token_end - token);
        let mut at = UNIT_POS_X;
        while at < count * head_size {
            let column = head + at % head_size;
            let from = token + at / head_size;
            let place = from * key_width + key_column + column;
            let mut key = f32::cast_from(key_value[place as usize]);
            let mut value = f32::cast_from(key_value[(place + hidden) as usize]);
            if has_biases {
                key += f32::cast_from(key_value_bias[column as usize]);
                value += f32::cast_from(key_value_bias[(column + hidden) as usize]);
            }
            keys[at as usize] = key;
            values[at as usize] = value;
            at += TILE_ROWS;
        }
        sync_cube();
        for key in 0..count {
            let first = key * head_size;
            let mut score = 0.0f32;
            #[unroll]
            for i in 0..head_size {
                score += query_values[i as usize] * keys[(first + i) as usize];
            }
            let key_token = token + key;
            if has_distance_bias {
                let row = last_row / 2 + i32::cast_from(query_token) - i32::cast_from(key_token);
                let row = u32::cast_from(min(max(row, 0i32), last_row));
                score += f32::cast_from(query_bias[(row * heads + CUBE_POS_X) as usize]);
            }
            let mut is_near = true;
            if has_window {
                is_near = max(query_token, key_token) - min(query_token, key_token) <= window;
            }
            if is_near {
                // The first key sets the maximum, because WGSL has no infinity.
                if sum == 0.0f32 || score > largest {
                    let shrink = (largest - score).exp();
                    if sum > 0.0f32 {
                        sum *= shrink;
                        #[unroll]
                        for i in 0..head_size {
                            context[i as usize] *= shrink;
                        }
                    }
                    largest = score;
                }
                let weight = (score - largest).exp();
                sum += weight;
                #[unroll]
                for i in 0..head_size {
                    context[i as usize] += weight * values[(first + i) as usize];
                }
            }
        }
        sync_cube();
        token += keys_at_once;
    }
    if row < query_end {
        #[unroll]
        for i in 0..head_size {
            output[(row * hidden + head + i) as usize] = Y::cast_from(context[i as usize] / sum);
        }
    }
}
