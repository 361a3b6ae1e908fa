//! Elementary functions in f32, free of branches and calls so that the compiler turns loops over them into
//! vector code. Errors are stated against f64 and checked in the tests below.

use crate::backend::Activation;

/// `e^x`, relative error below 2e-7; 0 below -87.3 and clamped to `e^88.3` above.
///
/// Cody and Waite's reduction to `[-ln2/2, ln2/2]`, then the polynomial of Cephes' `expf`
/// (<https://www.netlib.org/cephes/>).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and taking away 1.5 * 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.3, 88.3);
    let n = (clamped * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let e = p * r * r + r + 1.0;
    let scale = f32::from_bits(((n as i32 + 127) as u32) << 23);
    if x < -87.3 { 0.0 } else { e * scale }
}

/// The error function, absolute error below 3e-7: Abramowitz and Stegun, 7.1.26.
#[inline(always)]
fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let mut p = 1.061_405_4;
    p = p * t - 1.453_152_1;
    p = p * t + 1.421_413_8;
    p = p * t - 0.284_496_74;
    p = p * t + 0.254_829_6;
    (1.0 - p * t * exp(-a * a)).copysign(x)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[inline(always)]
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// `0.5 x (1 + tanh(u))` is `x · sigmoid(2u)`.
#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    const TWO_SQRT_2_OVER_PI: f32 = 1.595_769_2;
    x * sigmoid(TWO_SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x))
}

/// Adds `bias` to `row` and applies the activation, in place.
#[inline(always)]
pub fn bias_activation(row: &mut [f32], bias: &[f32], activation: Option<Activation>) {
    // One loop a case, so that each is free of branches.
    match activation {
        None => row.iter_mut().zip(bias).for_each(|(y, b)| *y += b),
        Some(Activation::Gelu) => row.iter_mut().zip(bias).for_each(|(y, b)| *y = gelu(*y + b)),
        Some(Activation::GeluTanh) => row.iter_mut().zip(bias).for_each(|(y, b)| *y = gelu_tanh(*y + b)),
        Some(Activation::Relu) => row.iter_mut().zip(bias).for_each(|(y, b)| *y = (*y + b).max(0.0)),
        Some(Activation::Silu) => row.iter_mut().zip(bias).for_each(|(y, b)| {
            let x = *y + b;
            *y = x * sigmoid(x);
        }),
    }
}

/// Turns scores into probabilities in place, after multiplying them with `scale`.
#[inline(always)]
pub fn softmax(row: &mut [f32], scale: f32) {
    // Lanes of their own, since the compiler may not reorder a float reduction by itself.
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in row.chunks(16) {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = lane.max(x);
        }
    }
    let max = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|x| *x = exp((*x - max) * scale));
    let sum = sum(row);
    row.iter_mut().for_each(|x| *x /= sum);
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
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2e-7, "exp({x}): relative error {error:e}");
        }
        assert_eq!(exp(-88.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn activations_are_close_to_f64() {
        let erf = |x: f64| {
            // Maclaurin series; enough terms for |x| < 5, saturated beyond.
            if x.abs() > 5.0 {
                return x.signum();
            }
            let (mut term, mut sum) = (x, x);
            for n in 1..200 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            sum * std::f64::consts::FRAC_2_SQRT_PI
        };
        for x in range().filter(|x| x.abs() < 20.0) {
            let d = f64::from(x);
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (d + 0.044715 * d * d * d);
            for (kind, exact) in [
                (
                    Activation::Gelu,
                    0.5 * d * (1.0 + erf(d * std::f64::consts::FRAC_1_SQRT_2)),
                ),
                (Activation::GeluTanh, 0.5 * d * (1.0 + inner.tanh())),
                (Activation::Relu, d.max(0.0)),
                (Activation::Silu, d / (1.0 + (-d).exp())),
            ] {
                let mut row = [x];
                bias_activation(&mut row, &[0.0], Some(kind));
                let error = (f64::from(row[0]) - exact).abs();
                assert!(error < 1e-6 * d.abs().max(1.0), "{kind:?}({x}): error {error:e}");
            }
        }
    }
}
