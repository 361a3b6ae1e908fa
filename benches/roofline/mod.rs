//! Upper limits of the machine: the rate of products and the bandwidth of memory, both measured with dense layers.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

use cloze::backend::Precision;
use cloze_kernels::{Context, Isa, Linear, Pool};

/// Measurements, of which the best counts.
const TRIES: usize = 10;

pub struct Machine {
    threads: usize,
    isa: Isa,
}

impl Machine {
    /// `threads` threads with the instruction set that the server uses.
    pub fn new(threads: usize) -> Self {
        let variable = std::env::var(cloze::backend::cpu::FEATURES_VARIABLE);
        let isa = match variable.as_deref() {
            Ok(name) if !name.is_empty() => Isa::named(name).expect("the server accepts the same name"),
            _ => Isa::detected(),
        };
        Self { threads, isa }
    }

    /// Floating-point operations a second, two for each multiply-add, of all threads. The operands fit the second-level
    /// cache.
    pub fn flops(&self, precision: Precision) -> f64 {
        const ROWS: usize = 96;
        const INPUTS: usize = 256;
        const OUTPUTS: usize = 256;
        const CALLS: usize = 200;
        let precision = match precision {
            Precision::F32 => cloze_kernels::Precision::F32,
            Precision::Bf16 => cloze_kernels::Precision::Bf16,
            Precision::Int8 => cloze_kernels::Precision::Int8,
            Precision::F16 => panic!("the CPU kernels have no products in f16"),
        };
        let barrier = Barrier::new(self.threads);
        let measure = || {
            let pool = Pool::new(1).expect("one thread is the calling one");
            let context = Context {
                pool: &pool,
                isa: self.isa,
            };
            let layer = Linear::new(self.isa, &[0.01; OUTPUTS * INPUTS], &[0.0; OUTPUTS], INPUTS, precision);
            let (x, mut y) = (vec![0.5; ROWS * INPUTS], vec![0.0; ROWS * OUTPUTS]);
            best_of(|| {
                barrier.wait();
                for _ in 0..CALLS {
                    layer.apply(context, black_box(&x), ROWS, None, &mut y);
                }
                black_box(&y);
            })
        };
        let seconds = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads).map(|_| scope.spawn(measure)).collect();
            let seconds = threads.into_iter().map(|thread| thread.join().expect("no panic"));
            seconds.fold(0.0, f64::max)
        });
        (2 * self.threads * CALLS * ROWS * INPUTS * OUTPUTS) as f64 / seconds
    }

    /// Bytes a second that all threads read from memory.
    pub fn memory_bandwidth(&self) -> f64 {
        // 256 MiB, more than the caches hold; one row, so that only reading takes time.
        const INPUTS: usize = 4096;
        const OUTPUTS: usize = 16_384;
        let pool = Pool::new(self.threads).expect("threads start");
        let context = Context {
            pool: &pool,
            isa: self.isa,
        };
        let weight = vec![0.01; OUTPUTS * INPUTS];
        let layer = Linear::new(
            self.isa,
            &weight,
            &[0.0; OUTPUTS],
            INPUTS,
            cloze_kernels::Precision::F32,
        );
        drop(weight);
        let x = vec![0.5; INPUTS];
        let mut y = vec![0.0; OUTPUTS];
        let seconds = best_of(|| {
            layer.apply(context, &x, 1, None, &mut y);
            black_box(&y);
        });
        (size_of::<f32>() * INPUTS * OUTPUTS) as f64 / seconds
    }
}

fn best_of(mut run: impl FnMut()) -> f64 {
    let once = |_| {
        let started_at = Instant::now();
        run();
        started_at.elapsed().as_secs_f64()
    };
    (0..TRIES).map(once).fold(f64::INFINITY, f64::min)
}
