//! Repeatable values for tests of numerical code.

/// `count` values in -1..1 from a linear congruential generator with the constants of Numerical Recipes.
pub fn random(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    })
    .take(count)
    .collect()
}
