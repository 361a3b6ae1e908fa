//! What this machine can do at best, for the benches.

use std::hint::black_box;
use std::time::Instant;

use crate::pack::{COLUMNS, Line, ROWS_MAX};
use crate::tile::{Sums, Words, tile};
use crate::{Context, Linear, Precision};

/// Tries of which the best counts.
const TRIES: usize = 10;

/// Multiply-adds a second, times two, of all threads, their operands in the first-level cache.
pub fn peak_flops(context: Context<'_>, precision: Precision) -> f64 {
    /// A panel of 16 KiB and a block of 6.
    const STEPS: usize = 128;
    const TILES: usize = 2000;
    let (words, values_per_step) = match precision {
        Precision::F32 => (Words::F32, 1),
        Precision::Bf16 => (Words::Bf16, 2),
        Precision::Int8 => (Words::Int8, 4),
    };
    // Zeros: denormal numbers could be slow, and nothing else depends on the values.
    let panel = vec![Line([0; 16]); 2 * STEPS];
    let block = vec![0; STEPS * ROWS_MAX];
    let threads = context.pool.threads();
    let seconds = best_of(|| {
        context.pool.run(threads, |_| {
            let mut sums: Sums = [[0; COLUMNS]; ROWS_MAX];
            for _ in 0..TILES {
                tile(
                    context.level,
                    words,
                    black_box(&block),
                    ROWS_MAX,
                    &panel,
                    &[],
                    &mut sums,
                );
            }
            black_box(sums);
        });
    });
    (2 * threads * TILES * ROWS_MAX * COLUMNS * STEPS * values_per_step) as f64 / seconds
}

/// Bytes a second that all threads read from memory.
pub fn memory_bandwidth(context: Context<'_>) -> f64 {
    // 256 MiB, more than the caches hold; one row, so that nothing but reading takes time.
    const INPUTS: usize = 4096;
    const OUTPUTS: usize = 16_384;
    let weight = vec![0.01; OUTPUTS * INPUTS];
    let layer = Linear::new(&weight, &[0.0; OUTPUTS], INPUTS, Precision::F32);
    drop(weight);
    let x = vec![0.5; INPUTS];
    let seconds = best_of(|| drop(black_box(layer.apply(context, &x, 1, None))));
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
