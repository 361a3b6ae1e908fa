//! Memory of pooled dense layers: it does not grow with rows × outputs.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use cloze_kernels::{Context, Isa, Linear, Pool, PooledRows, Pooling, Precision};

/// The system's allocator, with the bytes in use and the most of them.
struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all calls go to the system's allocator as they are.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let bytes = BYTES.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(bytes, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn memory_does_not_grow_with_rows_and_outputs() {
    let (rows, inputs, outputs) = (500, 16, 20_000);
    let stored = rows * outputs * size_of::<f32>();
    let pool = Pool::new(2).unwrap();
    let (x, weight, bias) = (
        vec![0.5; rows * inputs],
        vec![0.5; outputs * inputs],
        vec![0.0; outputs],
    );
    let pools = [PooledRows {
        rows: 0..rows,
        to: 0,
        pooling: Pooling::Max,
    }];
    for isa in Isa::available() {
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let context = Context { pool: &pool, isa };
            let layer = Linear::new(isa, &weight, &bias, inputs, precision);
            let mut pooled = vec![0.0; outputs];
            let before = BYTES.load(Ordering::Relaxed);
            PEAK.store(before, Ordering::Relaxed);
            layer.apply_pooled(context, &x, &pools, &mut pooled);
            let grown = PEAK.load(Ordering::Relaxed) - before;
            assert!(pooled.iter().all(|&value| value > 0.0));
            // The packed rows, and a tile for each thread.
            assert!(grown < stored / 100, "{isa} {precision:?}: {grown} of {stored} bytes");
        }
    }
}
