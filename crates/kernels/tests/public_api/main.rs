//! Every public function on every instruction set of the CPU, over odd sizes, with one and several threads, against
//! plain loops in f64. Small, so that sanitizers can run it. The tests of the CPU backend
//! compare with Burn.

mod layers;
mod linear;
mod logits;
mod sizes;

use cloze_kernels::{Activation, Context, Isa, Linear, Pool};

fn pools() -> [Pool; 2] {
    [1, 3].map(|threads| Pool::new(threads).unwrap())
}

fn contexts(pools: &[Pool]) -> impl Iterator<Item = Context<'_>> {
    let isas = Isa::available();
    isas.flat_map(|isa| pools.iter().map(move |pool| Context { pool, isa }))
}

fn assert_close(ours: &[f32], expected: &[f64], error_max: f64, case: &str) {
    assert_eq!(ours.len(), expected.len(), "{case}");
    for (index, (&ours, &expected)) in ours.iter().zip(expected).enumerate() {
        let error = (f64::from(ours) - expected).abs();
        assert!(error <= error_max, "{case}: {ours}, not {expected}, at {index}");
    }
}

fn apply(layer: &Linear, context: Context<'_>, x: &[f32], rows: usize, activation: Option<Activation>) -> Vec<f32> {
    let mut y = vec![f32::NAN; rows * layer.outputs()];
    layer.apply(context, x, rows, activation, &mut y);
    y
}
