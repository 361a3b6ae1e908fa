//! GEMM epilogue: dequantize, add bias, activate, store to the output matrix.

use crate::disjoint::OutputTile;
use crate::isa::{Isa, for_each_isa};
use crate::layout::NR;
use crate::math::{gelu, gelu_low_precision, gelu_tanh, silu};

/// Activation function of a dense layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · Φ(x)`.
    Gelu,
    /// GELU's approximation by tanh.
    GeluTanh,
    Relu,
    /// `x · sigmoid(x)`.
    Silu,
}

/// The conversion of a tile's sums to f32, before an activation.
#[derive(Clone, Copy)]
pub enum Epilogue<'a> {
    /// `sum + bias`, a bias for each column.
    Bias(&'a [f32; NR]),
    /// `sum · factor`, a factor for each row.
    RowFactors(&'a [f32]),
    /// For 8-bit products.
    Dequantize(Dequantize<'a>),
}

/// `activation scale · weight scale · (sum - zero point) + bias`.
#[derive(Clone, Copy)]
pub struct Dequantize<'a> {
    /// By column: the [amount](crate::pack::zero_point_sums) by which sums over unsigned activations are too large. A
    /// micro-kernel with signed activations has no use for it.
    pub zero_point: &'a [i32; NR],
    /// By row.
    pub activation_scales: &'a [f32],
    /// By column.
    pub weight_scales: &'a [f32; NR],
    /// By column.
    pub bias: &'a [f32; NR],
}

impl Epilogue<'_> {
    /// True if there is a factor for each of `rows` rows.
    #[inline(always)]
    pub fn fits(&self, rows: usize) -> bool {
        match self {
            Self::Bias(_) => true,
            Self::RowFactors(by_row)
            | Self::Dequantize(Dequantize {
                activation_scales: by_row,
                ..
            }) => by_row.len() >= rows,
        }
    }
}

/// Applies an epilogue to sums in place; the results are bits of f32. Portable.
#[inline(always)]
pub fn apply(sums: &mut [[u32; NR]], epilogue: &Epilogue<'_>) {
    for (index, row) in sums.iter_mut().enumerate() {
        for (n, bits) in row.iter_mut().enumerate() {
            let sum = f32::from_bits(*bits);
            let value = match epilogue {
                Epilogue::Bias(bias) => sum + bias[n],
                Epilogue::RowFactors(factors) => sum * factors[index],
                Epilogue::Dequantize(int8) => {
                    let sum = (*bits as i32 - int8.zero_point[n]) as f32;
                    sum * (int8.activation_scales[index] * int8.weight_scales[n]) + int8.bias[n]
                }
            };
            *bits = value.to_bits();
        }
    }
}

/// Applies an activation to values, the bits of f32, in place. `low_precision` permits an error of 2e-5, for results
/// that are rounded to less than f32.
pub fn activate(isa: Isa, values: &mut [[u32; NR]], activation: Option<Activation>, low_precision: bool) {
    activate_flat(isa, values.as_flattened_mut(), activation, low_precision);
}

/// One loop for each activation, over all values in one piece, so that the compiler vectorizes it with its constants in
/// registers.
#[inline(always)]
fn activate_body<const FMA: bool>(values: &mut [u32], activation: Option<Activation>, low_precision: bool) {
    match activation {
        None => {}
        Some(Activation::Gelu) if low_precision => each(values, gelu_low_precision::<FMA>),
        Some(Activation::Gelu) => each(values, gelu::<FMA>),
        Some(Activation::GeluTanh) => each(values, gelu_tanh::<FMA>),
        Some(Activation::Relu) => each(values, |x| x.max(0.0)),
        Some(Activation::Silu) => each(values, silu::<FMA>),
    }
}

#[inline(always)]
fn each(values: &mut [u32], function: impl Fn(f32) -> f32) {
    for bits in values {
        *bits = function(f32::from_bits(*bits)).to_bits();
    }
}

for_each_isa! {
    fn activate_flat(values: &mut [u32], activation: Option<Activation>, low_precision: bool) = fused activate_body
}

#[inline(always)]
fn store_body(output: &mut OutputTile<'_>, rows: &[[u32; NR]]) {
    for (index, values) in rows.iter().enumerate() {
        let y = output.row(index);
        match y.first_chunk_mut::<NR>() {
            // In two loops, so that the first has a length that the compiler knows.
            Some(whole) => whole
                .iter_mut()
                .zip(values)
                .for_each(|(y, bits)| *y = f32::from_bits(*bits)),
            None => y
                .iter_mut()
                .zip(values)
                .for_each(|(y, bits)| *y = f32::from_bits(*bits)),
        }
    }
}

for_each_isa! {
    /// Stores rows of values, the bits of f32.
    pub fn store(output: &mut OutputTile<'_>, rows: &[[u32; NR]]) = store_body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(isa: Isa, inputs: &[f32], kind: Activation, low_precision: bool) -> Vec<f32> {
        let mut outputs = vec![0.0; inputs.len()];
        for (y, x) in outputs.chunks_mut(NR).zip(inputs.chunks(NR)) {
            let mut sums = [[0; NR]];
            sums[0].iter_mut().zip(x).for_each(|(sum, x)| *sum = x.to_bits());
            activate(isa, &mut sums, Some(kind), low_precision);
            y.iter_mut()
                .zip(sums[0])
                .for_each(|(y, bits)| *y = f32::from_bits(bits));
        }
        outputs
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
        let inputs: Vec<f32> = (-20_000..=20_000).map(|i| i as f32 * 1e-3).collect();
        for isa in Isa::available() {
            for (kind, low_precision, error_max) in [
                (Activation::Gelu, false, 5e-7),
                (Activation::Gelu, true, 2e-5),
                (Activation::GeluTanh, false, 5e-7),
                (Activation::Relu, false, 5e-7),
                (Activation::Silu, false, 5e-7),
            ] {
                for (&x, y) in inputs.iter().zip(outputs(isa, &inputs, kind, low_precision)) {
                    let d = f64::from(x);
                    let inner = (2.0 / std::f64::consts::PI).sqrt() * (d + 0.044715 * d * d * d);
                    let exact = match kind {
                        Activation::Gelu => 0.5 * d * (1.0 + erf(d * std::f64::consts::FRAC_1_SQRT_2)),
                        Activation::GeluTanh => 0.5 * d * (1.0 + inner.tanh()),
                        Activation::Relu => d.max(0.0),
                        Activation::Silu => d / (1.0 + (-d).exp()),
                    };
                    let error = (f64::from(y) - exact).abs();
                    assert!(
                        error < error_max * d.abs().max(1.0),
                        "{isa} {kind:?}({x}): error {error:e}"
                    );
                }
            }
        }
    }
}
