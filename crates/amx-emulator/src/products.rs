//! The product of a row of a tile with another tile, rounded and summed as the instructions do (Intel's Software
//! Developer's Manual, volume 2).

/// 32-bit elements of a row of a tile.
pub const ELEMENTS: usize = 16;

/// Denormal operands and results are treated as zero.
#[inline(always)]
fn flushed(value: f32) -> f32 {
    match value.abs() < f32::MIN_POSITIVE {
        true => 0.0f32.copysign(value),
        false => value,
    }
}

/// The bf16 in the low or high half of an element.
#[inline(always)]
fn half(element: u32, half: usize) -> f32 {
    flushed(f32::from_bits(element >> (16 * half) << 16))
}

/// `tdpbf16ps` on a row: even and odd products are summed separately, each with one rounding (to nearest, ties to
/// even), then added to each other, and then to the previous sum.
pub fn dot_bf16(sums: &mut [u32; ELEMENTS], a: &[u32], b: &[[u32; ELEMENTS]]) {
    #[inline(always)]
    fn plain(sums: &mut [u32; ELEMENTS], a: &[u32], b: &[[u32; ELEMENTS]]) {
        let mut products = [[0.0f32; ELEMENTS]; 2];
        for (&a, b) in a.iter().zip(b) {
            for (i, products) in products.iter_mut().enumerate() {
                let a = half(a, i);
                for n in 0..ELEMENTS {
                    products[n] = flushed(a.mul_add(half(b[n], i), products[n]));
                }
            }
        }
        for n in 0..ELEMENTS {
            let product = flushed(products[0][n] + products[1][n]);
            sums[n] = flushed(flushed(f32::from_bits(sums[n])) + product).to_bits();
        }
    }
    #[target_feature(enable = "avx512f")]
    fn vectorized(sums: &mut [u32; ELEMENTS], a: &[u32], b: &[[u32; ELEMENTS]]) {
        plain(sums, a, b);
    }
    match is_x86_feature_detected!("avx512f") {
        // SAFETY: the CPU has the instructions, as just checked.
        true => unsafe { vectorized(sums, a, b) },
        // The kernels do not use AMX there, but the tests of the emulator run.
        false => plain(sums, a, b),
    }
}

/// `tdpb[su][su]d` on a row: four products an element, summed without saturation.
pub fn dot_int8(sums: &mut [u32; ELEMENTS], a: &[u32], b: &[[u32; ELEMENTS]], a_is_signed: bool, b_is_signed: bool) {
    let value = |byte: u8, is_signed: bool| match is_signed {
        true => i32::from(byte as i8),
        false => i32::from(byte),
    };
    for (&a, b) in a.iter().zip(b) {
        let a = a.to_le_bytes().map(|byte| value(byte, a_is_signed));
        for (sum, b) in sums.iter_mut().zip(b) {
            for (a, b) in a.into_iter().zip(b.to_le_bytes()) {
                *sum = sum.wrapping_add_signed(a * value(b, b_is_signed));
            }
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Two values that are exact in bf16, as one element.
    pub fn pair(low: f32, high: f32) -> u32 {
        assert!((low.to_bits() | high.to_bits()) & 0xffff == 0);
        low.to_bits() >> 16 | high.to_bits()
    }

    /// One element of each factor, and a sum.
    fn bf16_of_one_element(sum: f32, a: u32, b: u32) -> f32 {
        let mut sums = [sum.to_bits(); ELEMENTS];
        dot_bf16(&mut sums, &[a], &[[b; ELEMENTS]]);
        assert_eq!(sums, [sums[0]; ELEMENTS]);
        f32::from_bits(sums[0])
    }

    /// Computed by hand from the pseudo code in the manual.
    #[test]
    fn bf16_products_by_hand() {
        let tiny = f32::from_bits(0x0040_0000);
        let epsilon = 2f32.powi(-23);
        let least = f32::MIN_POSITIVE;
        for (name, sum, a, b, expected) in [
            ("1 + 2·3 + 4·5", 1.0, pair(2.0, 4.0), pair(3.0, 5.0), 27.0),
            // Added one after the other to the sum, both halves of its last place would be rounded away.
            (
                "the products first",
                1.0,
                pair(epsilon / 2.0, epsilon / 2.0),
                pair(1.0, 1.0),
                1.0 + epsilon,
            ),
            ("ties to even", 1.0, pair(epsilon / 2.0, 0.0), pair(1.0, 0.0), 1.0),
            (
                "ties to even, up",
                1.0 + epsilon,
                pair(epsilon / 2.0, 0.0),
                pair(1.0, 0.0),
                1.0 + 2.0 * epsilon,
            ),
            (
                "a denormal factor is zero",
                1.0,
                pair(tiny, 0.0),
                pair(2f32.powi(127), 0.0),
                1.0,
            ),
            ("a denormal sum is zero", tiny, pair(least, 0.0), pair(1.0, 0.0), least),
            ("a denormal product is zero", 0.0, pair(least, 0.0), pair(0.5, 0.0), 0.0),
            (
                "a denormal result is zero",
                1.5 * least,
                pair(-least, 0.0),
                pair(1.0, 0.0),
                0.0,
            ),
        ] {
            assert_eq!(bf16_of_one_element(sum, a, b), expected, "{name}");
        }
    }

    /// By hand, for all four kinds: 0x80 is -128 or 128, 0xff is -1 or 255.
    #[test]
    fn int8_products_by_hand() {
        let (a, b) = (
            u32::from_le_bytes([0x80, 2, 3, 0xff]),
            u32::from_le_bytes([0xff, 5, 0x80, 1]),
        );
        for (a_is_signed, b_is_signed, expected) in [
            (true, true, 128 + 10 - 384 - 1),
            (true, false, -128 * 255 + 10 + 384 - 1),
            (false, true, -128 + 10 - 384 + 255),
            (false, false, 128 * 255 + 10 + 384 + 255),
        ] {
            let mut sums = [-1000i32 as u32; ELEMENTS];
            dot_int8(&mut sums, &[a], &[[b; ELEMENTS]], a_is_signed, b_is_signed);
            let kind = format!("signed: {a_is_signed}, {b_is_signed}");
            assert_eq!(sums.map(|sum| sum as i32), [expected - 1000; ELEMENTS], "{kind}");
        }
    }
}
