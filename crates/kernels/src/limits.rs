//! What this machine can do at best, for the benches.

use std::hint::black_box;
use std::time::Instant;

use crate::pack::{COLUMNS, GROUP, Line, ROWS_MAX};
use crate::plan::Depth;
use crate::tile::{Block, Product};
use crate::{Context, Level, Linear, Precision, amx};

/// Tries of which the best counts.
const TRIES: usize = 10;

/// Multiply-adds a second, times two, of all threads, their operands in the first-level cache.
pub fn peak_flops(context: Context<'_>, precision: Precision) -> f64 {
    /// Bytes of a panel, and so of a block at most: both fit the first-level cache, even of two threads.
    const PANEL_BYTES: usize = 8 * 1024;
    const TILES: usize = 4000;
    let words = precision.words();
    let is_tiled = context.level >= Level::Amx;
    let per_unit = Depth::new(words, 1, is_tiled);
    let units = PANEL_BYTES / (per_unit.unit_lines * size_of::<Line>());
    let (rows, values) = match is_tiled {
        true => (amx::ROWS_MAX, units * amx::group_values(words)),
        false => (ROWS_MAX, units * GROUP * words.values()),
    };
    // Zeros: denormal numbers could be slow, and nothing else depends on the values.
    let panel = vec![Line([0; 16]); units * per_unit.unit_lines];
    let block = vec![0; rows * units * per_unit.unit_words];
    let threads = context.pool.threads();
    let seconds = best_of(|| {
        context.pool.run(threads, |_| {
            let tiles = is_tiled.then(amx::Configured::new);
            let mut sums = amx::TileSums::ZERO;
            for _ in 0..TILES {
                let block = black_box(&block);
                match &tiles {
                    Some(tiles) => amx::tile(tiles, words, block, &panel, &[], false, &mut sums),
                    None => {
                        let product = Product {
                            level: context.level,
                            words,
                            block: Block::ByRow(block, rows),
                            panel: &panel,
                            ahead: &[],
                        };
                        product.sums(&mut sums.0);
                    }
                }
            }
            black_box(sums);
        });
    });
    (2 * threads * TILES * rows * COLUMNS * values) as f64 / seconds
}

/// Bytes a second that all threads read from memory.
pub fn memory_bandwidth(context: Context<'_>) -> f64 {
    // 256 MiB, more than the caches hold; one row, so that nothing but reading takes time.
    const INPUTS: usize = 4096;
    const OUTPUTS: usize = 16_384;
    let weight = vec![0.01; OUTPUTS * INPUTS];
    let layer = Linear::new(context.level, &weight, &[0.0; OUTPUTS], INPUTS, Precision::F32);
    drop(weight);
    let x = vec![0.5; INPUTS];
    let mut y = vec![0.0; OUTPUTS];
    let seconds = best_of(|| {
        layer.apply(context, &x, 1, None, &mut y);
        black_box(&y);
    });
    (size_of::<f32>() * INPUTS * OUTPUTS) as f64 / seconds
}

fn best_of(mut run: impl FnMut()) -> f64 {
    let once = |_| {
        let started_at = Instant::now();
        run();
        started_at.elapsed().as_secs_f64()
    };
    (0..TRIES).map(once).fold(f64::INFINITY, f64::min)
}
