//! Elementary functions in f32 without branches and calls, so that the compiler vectorizes loops over them. Errors are
//! stated against f64; the tests check them.

/// `a · b + c`, in one instruction if `FMA`, which says that the CPU has it.
#[inline(always)]
fn fused<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `e^x`, relative error below 2e-7; 0 below -87.3 and clamped to `e^88.3` above.
#[inline(always)]
pub fn exp<const FMA: bool>(x: f32) -> f32 {
    let e = exp_in_range::<FMA>(x.clamp(-87.3, 88.3));
    if x < -87.3 { 0.0 } else { e }
}

/// `e^(factor · (x - max))` for `x` up to `max`, relative error below 2e-7 and that of the exponent's rounding; 0 below
/// -87.7. Takes fewer operations than [`exp`].
///
/// With fused instructions, all results of one `max` have a common factor, which rounds to 1 for small `max`: a softmax
/// cancels it.
#[inline(always)]
pub fn exp_below<const FMA: bool>(x: f32, max: f32, factor: f32) -> f32 {
    let exponent = if FMA {
        x.mul_add(factor, -(max * factor))
    } else {
        (x - max) * factor
    };
    // 2^n is 0 at the end of the range. NaN stays.
    exp_in_range::<FMA>(if exponent < -88.0 { -88.0 } else { exponent })
}

/// `e^x` for `x` in -88.0..88.4; 0 below -87.7.
///
/// Cody and Waite's reduction to `[-ln2/2, ln2/2]`, then the polynomial of `expf` in Cephes
/// (<https://www.netlib.org/cephes/>).
#[inline(always)]
fn exp_in_range<const FMA: bool>(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let rounded = fused::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = fused::<FMA>(n, -LN2_LOW, fused::<FMA>(n, -LN2_HIGH, x));
    let mut p = 1.987_569_1e-4;
    p = fused::<FMA>(p, r, 1.398_2e-3);
    p = fused::<FMA>(p, r, 8.333_452e-3);
    p = fused::<FMA>(p, r, 4.166_579_6e-2);
    p = fused::<FMA>(p, r, 1.666_666_5e-1);
    p = fused::<FMA>(p, r, 0.5);
    let e = fused::<FMA>(p * r, r, r) + 1.0;
    // The low bits of `rounded` are the integer n. Shifted into the exponent, with the bias added, they are 2^n.
    e * f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23))
}

/// `ln(1 + x)` for `x` that is not negative, relative error below 3e-7; NaN and infinity stay.
///
/// `1 + x` is `2^n · m` with `m` in `√½..√2`, and the logarithm of `m` a polynomial in `(m - 1) / (m + 1)`: `log1pf` of
/// FreeBSD's msun.
#[inline(always)]
pub fn ln_1p<const FMA: bool>(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_138_1;
    const LN2_LOW: f32 = 9.058_001e-6;
    const SQRT_HALF: u32 = 0x3f35_04f3;
    let shifted = (1.0 + x).to_bits().wrapping_add(0x3f80_0000 - SQRT_HALF);
    let n = (shifted >> 23) as i32 - 127;
    let m = f32::from_bits((shifted & 0x007f_ffff) + SQRT_HALF);
    // Small values keep the digits that `1 + x` loses.
    let f = if n == 0 { x } else { m - 1.0 };
    let n = n as f32;
    let s = f / (2.0 + f);
    let z = s * s;
    let w = z * z;
    let even = w * fused::<FMA>(w, 0.242_790_79, 0.400_009_72);
    let odd = z * fused::<FMA>(w, 0.284_987_87, 0.666_666_6);
    let half = 0.5 * f * f;
    let logarithm = s * (half + odd + even) + n * LN2_LOW - half + f + n * LN2_HIGH;
    if x < f32::INFINITY { logarithm } else { x }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// `x · sigmoid(x)`.
#[inline(always)]
pub fn silu<const FMA: bool>(x: f32) -> f32 {
    x * sigmoid::<FMA>(x)
}

/// `x · Φ(x)`, absolute error below 5e-7 of the larger of 1 and `|x|`.
#[inline(always)]
pub fn gelu<const FMA: bool>(x: f32) -> f32 {
    const EVEN: [f32; 8] = [
        5.149_718_5e-4,
        1.089_218_4e-3,
        4.165_393_8e-3,
        1.050_571_5e-2,
        2.027_842_2e-2,
        3.208_285e-2,
        4.773_694_6e-2,
        1.285_519_3e-1,
    ];
    const ODD: [f32; 7] = [
        -1.347_634_8e-3,
        -1.288_098e-3,
        -7.612_871_5e-3,
        -1.470_217_7e-2,
        -2.610_512e-2,
        -3.878_800_2e-2,
        -6.417_245_4e-2,
    ];
    gelu_within::<FMA>(x, 5.5, &EVEN, &ODD)
}

/// `x · Φ(x)` with an error below 2e-5, a hundredth of the error of rounding to bf16 or 8 bits.
#[inline(always)]
pub fn gelu_low_precision<const FMA: bool>(x: f32) -> f32 {
    const EVEN: [f32; 5] = [
        3.998_897_5e-3,
        1.125_707_2e-2,
        2.803_983_2e-2,
        5.476_734_4e-2,
        1.569_029_5e-1,
    ];
    const ODD: [f32; 4] = [-9.847_508e-3, -1.603_663_5e-2, -4.081_944_7e-2, -7.714_884e-2];
    gelu_within::<FMA>(x, 4.5, &EVEN, &ODD)
}

/// GELU by a polynomial, without a division or an exponential.
///
/// `(Φ(x) - 1/2) / x` is even, hence a polynomial in `t = 2 (x / end)² - 1`. `x` is clamped to `-end..end`; beyond
/// that, `Φ` is 0 or 1 to within the stated error. The coefficients minimize the largest error of `x · Φ(x)`
/// (`tools/gelu.py` computes them). They belong to the even and to the odd powers of `t`, the highest first: two chains
/// that the CPU evaluates in parallel.
#[inline(always)]
fn gelu_within<const FMA: bool>(x: f32, end: f32, even_powers: &[f32], odd_powers: &[f32]) -> f32 {
    let clamped = x.clamp(-end, end);
    let t = fused::<FMA>(clamped * clamped, 2.0 / (end * end), -1.0);
    let t2 = t * t;
    let (mut even, mut odd) = (even_powers[0], odd_powers[0]);
    for coefficient in &even_powers[1..] {
        even = fused::<FMA>(even, t2, *coefficient);
    }
    for coefficient in &odd_powers[1..] {
        odd = fused::<FMA>(odd, t2, *coefficient);
    }
    x * fused::<FMA>(clamped, fused::<FMA>(odd, t, even), 0.5)
}

/// `0.5 x (1 + tanh(u))` is `x · sigmoid(2u)`.
#[inline(always)]
pub fn gelu_tanh<const FMA: bool>(x: f32) -> f32 {
    const TWO_SQRT_2_OVER_PI: f32 = 1.595_769_2;
    x * sigmoid::<FMA>(TWO_SQRT_2_OVER_PI * fused::<FMA>(0.044_715 * x * x, x, x))
}

/// The sum of `of(value)` over all values, in 64 lanes: four registers of AVX-512, so that additions do not wait for
/// each other.
#[inline(always)]
pub fn sum_of(values: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; 64];
    let (chunks, rest) = values.as_chunks::<64>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += of(*x);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += of(*x);
    }
    let mut width = lanes.len();
    while width > 1 {
        width /= 2;
        let (low, high) = lanes.split_at_mut(width);
        low.iter_mut().zip(high).for_each(|(low, high)| *low += *high);
    }
    lanes[0]
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

    #[test]
    fn exp_below_is_within_its_stated_error() {
        let factor = 0.125;
        for max in [0.0, 3.7, -250.0] {
            for x in range().map(|x| max + 8.0 * x).filter(|&x| x <= max) {
                let exponent = f64::from(factor) * (f64::from(x) - f64::from(max));
                for (ours, rounding) in [
                    (exp_below::<false>(x, max, factor), 0.0),
                    // The error of `factor · max`, in all results alike.
                    (
                        exp_below::<true>(x, max, factor),
                        f64::from(factor * max).abs() * f64::from(f32::EPSILON),
                    ),
                ] {
                    let rounding = rounding + exponent.abs() * f64::from(f32::EPSILON);
                    if exponent > -87.3 {
                        let error = (f64::from(ours) - exponent.exp()).abs() / exponent.exp();
                        assert!(error < 2e-7 + rounding, "{x} below {max}: relative error {error:e}");
                    } else if exponent < -87.7 {
                        assert_eq!(ours, 0.0, "{x} below {max}");
                    }
                }
            }
        }
        for x in [f32::NEG_INFINITY, f32::MIN, -1e6] {
            assert_eq!(
                [exp_below::<false>(x, 1.0, 0.3), exp_below::<true>(x, 1.0, 0.3)],
                [0.0; 2]
            );
        }
        assert!(exp_below::<false>(f32::NAN, 1.0, 0.3).is_nan() && exp_below::<true>(f32::NAN, 1.0, 0.3).is_nan());
    }

    #[test]
    fn ln_1p_is_within_its_stated_error() {
        let small = (0..2000).map(|i| 1e-30 * 1.04f32.powi(i));
        for x in range().filter(|&x| x > 0.0).chain(small.filter(|x| x.is_finite())) {
            let exact = f64::from(x).ln_1p();
            for ours in [ln_1p::<false>(x), ln_1p::<true>(x)] {
                let error = (f64::from(ours) - exact).abs() / exact;
                assert!(error < 3e-7, "ln_1p({x}): relative error {error:e}");
            }
        }
        assert_eq!(ln_1p::<false>(0.0), 0.0);
        assert_eq!(ln_1p::<false>(f32::INFINITY), f32::INFINITY);
        assert!(ln_1p::<false>(f32::NAN).is_nan());
    }
}
