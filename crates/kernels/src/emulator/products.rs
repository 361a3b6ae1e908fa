//! The products of a row of a tile with another tile, as the instructions round and sum them (Intel's Software Developer's
//! Manual, volume 2).

/// Words of a tile's row.
pub const WORDS: usize = 16;

/// A denormal number as the zero that it is treated as, at the way in and at the way out.
#[inline(always)]
fn flushed(value: f32) -> f32 {
    match value.abs() < f32::MIN_POSITIVE {
        true => 0.0f32.copysign(value),
        false => value,
    }
}

/// The bf16 in the low or high half of a word.
#[inline(always)]
fn half(word: u32, half: usize) -> f32 {
    flushed(f32::from_bits(word >> (16 * half) << 16))
}

/// `tdpbf16ps` on a row: even and odd products are summed apart, each with one rounding (to the nearest, ties to even),
/// then together, and then with what was there.
pub fn dot_bf16(sums: &mut [u32; WORDS], a: &[u32], b: &[[u32; WORDS]]) {
    #[inline(always)]
    fn plain(sums: &mut [u32; WORDS], a: &[u32], b: &[[u32; WORDS]]) {
        let mut products = [[0.0f32; WORDS]; 2];
        for (&a, b) in a.iter().zip(b) {
            for (i, products) in products.iter_mut().enumerate() {
                let a = half(a, i);
                for n in 0..WORDS {
                    products[n] = flushed(a.mul_add(half(b[n], i), products[n]));
                }
            }
        }
        for n in 0..WORDS {
            let product = flushed(products[0][n] + products[1][n]);
            sums[n] = flushed(flushed(f32::from_bits(sums[n])) + product).to_bits();
        }
    }
    #[target_feature(enable = "avx512f")]
    fn vectorized(sums: &mut [u32; WORDS], a: &[u32], b: &[[u32; WORDS]]) {
        plain(sums, a, b);
    }
    match is_x86_feature_detected!("avx512f") {
        // SAFETY: the CPU has just been asked.
        true => unsafe { vectorized(sums, a, b) },
        // The emulator is not installed there, but its tests run.
        false => plain(sums, a, b),
    }
}

/// `tdpb[su][su]d` on a row: four products a word, summed without saturation.
pub fn dot_int8(sums: &mut [u32; WORDS], a: &[u32], b: &[[u32; WORDS]], a_is_signed: bool, b_is_signed: bool) {
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

    /// Two bf16 in a word, which they fit exactly.
    pub fn pair(low: f32, high: f32) -> u32 {
        assert!((low.to_bits() | high.to_bits()) & 0xffff == 0);
        low.to_bits() >> 16 | high.to_bits()
    }

    /// One word of each factor, and a sum.
    fn bf16_of_one_word(sum: f32, a: u32, b: u32) -> f32 {
        let mut sums = [sum.to_bits(); WORDS];
        dot_bf16(&mut sums, &[a], &[[b; WORDS]]);
        assert_eq!(sums, [sums[0]; WORDS]);
        f32::from_bits(sums[0])
    }

    /// By hand, along the manual's pseudo code.
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
            assert_eq!(bf16_of_one_word(sum, a, b), expected, "{name}");
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
            let mut sums = [-1000i32 as u32; WORDS];
            dot_int8(&mut sums, &[a], &[[b; WORDS]], a_is_signed, b_is_signed);
            let kind = format!("signed: {a_is_signed}, {b_is_signed}");
            assert_eq!(sums.map(|sum| sum as i32), [expected - 1000; WORDS], "{kind}");
        }
    }
}
