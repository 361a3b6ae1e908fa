//! Softmax attention within segments, without padding and in one launch.
//!
//! A cube takes a tile of a segment's query rows and one head, a unit each row. Keys and values pass through
//! shared memory, and the softmax is summed up as they come: <https://arxiv.org/abs/1805.02867>.

use burn::tensor::Shape;
use cubecl::prelude::*;

use super::{Primitive, empty};

/// Query rows of a tile.
pub const TILE_ROWS: u32 = 32;
/// Numbers of a tile that are query begin and end, token begin and end.
pub const TILE_FIELDS: usize = 4;
/// Numbers of keys, and as many of values, that lie in shared memory at once: 16 KiB both.
const SHARED_NUMBERS: u32 = 2048;

/// `query` `[query rows, hidden]`, `key_value` `[token rows, 2 * hidden]`, `tiles` `[tiles, 4]`; all contiguous.
pub fn attention(
    query: Primitive,
    key_value: Primitive,
    tiles: Primitive,
    tile_count: usize,
    heads: usize,
) -> Primitive {
    let shape = query.meta.shape().clone();
    let (rows, hidden) = (shape[0], shape[1]);
    let output = empty(&query, Shape::new([rows, hidden]), query.dtype);
    let head_size = hidden / heads;
    let dtype = query.dtype;
    attention_kernel::launch(
        &query.client.clone(),
        CubeCount::Static(heads as u32, tile_count as u32, 1),
        CubeDim::new_1d(TILE_ROWS),
        query.into_tensor_arg(),
        key_value.into_tensor_arg(),
        tiles.into_tensor_arg(),
        output.clone().into_tensor_arg(),
        1.0 / (head_size as f32).sqrt(),
        hidden as u32,
        head_size as u32,
        dtype.into(),
    );
    output
}

#[cube(launch)]
fn attention_kernel<F: Float>(
    query: &Tensor<F>,
    key_value: &Tensor<F>,
    tiles: &Tensor<u32>,
    output: &mut Tensor<F>,
    scale: f32,
    #[comptime] hidden: u32,
    #[comptime] head_size: u32,
    #[define(F)] _dtype: StorageType,
) {
    let keys_at_once = comptime!((SHARED_NUMBERS / head_size).clamp(1, 64));
    let tile = CUBE_POS_Y * 4;
    let query_begin = tiles[tile as usize];
    let query_end = tiles[(tile + 1) as usize];
    let token_begin = tiles[(tile + 2) as usize];
    let token_end = tiles[(tile + 3) as usize];
    let head = CUBE_POS_X * head_size;
    // Units past the tile's end compute its last row too and write nothing: all must meet at the barriers.
    let row = query_begin + UNIT_POS_X;
    let query_first = min(row, query_end - 1) * hidden + head;

    let mut asking = Array::<f32>::new(head_size as usize);
    let mut context = Array::<f32>::new(head_size as usize);
    #[unroll]
    for i in 0..head_size {
        asking[i as usize] = f32::cast_from(query[(query_first + i) as usize]) * scale;
        context[i as usize] = 0.0f32;
    }
    let mut keys = SharedMemory::<f32>::new((keys_at_once * head_size) as usize);
    let mut values = SharedMemory::<f32>::new((keys_at_once * head_size) as usize);
    let mut largest = 0.0f32;
    let mut sum = 0.0f32;

    let mut token = token_begin;
    while token < token_end {
        let count = min(keys_at_once, token_end - token);
        let mut at = UNIT_POS_X;
        while at < count * head_size {
            let from = (token + at / head_size) * 2 * hidden + head + at % head_size;
            keys[at as usize] = f32::cast_from(key_value[from as usize]);
            values[at as usize] = f32::cast_from(key_value[(from + hidden) as usize]);
            at += TILE_ROWS;
        }
        sync_cube();
        for key in 0..count {
            let first = key * head_size;
            let mut score = 0.0f32;
            #[unroll]
            for i in 0..head_size {
                score += asking[i as usize] * keys[(first + i) as usize];
            }
            // The first key of all sets the maximum; there is no infinity in WGSL to begin with.
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
        sync_cube();
        token += keys_at_once;
    }
    if row < query_end {
        #[unroll]
        for i in 0..head_size {
            output[(row * hidden + head + i) as usize] = F::cast_from(context[i as usize] / sum);
        }
    }
}
