//! Types of elements, and their values in f32.

use std::fmt;

/// Adds the values of elements, which are little-endian.
pub type Convert = fn(&[u8], &mut Vec<f32>);

/// The type of a tensor's elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElementType {
    F64,
    F32,
    F16,
    Bf16,
    /// Four bits of exponent and three of mantissa, without infinity.
    F8E4m3,
    /// The upper half of an f16.
    F8E5m2,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
    /// A type that is not read, by its name.
    Other(String),
}

/// The types that are read, for messages.
pub const SUPPORTED: &str = "F64, F32, F16, BF16, F8_E4M3, F8_E5M2, whole numbers and BOOL";

impl ElementType {
    /// The type that safetensors calls `name`.
    pub fn named(name: &str) -> Self {
        let known = [
            Self::F64,
            Self::F32,
            Self::F16,
            Self::Bf16,
            Self::F8E4m3,
            Self::F8E5m2,
            Self::I64,
            Self::I32,
            Self::I16,
            Self::I8,
            Self::U64,
            Self::U32,
            Self::U16,
            Self::U8,
            Self::Bool,
        ];
        let known = known.into_iter().find(|element| element.name() == name);
        known.unwrap_or_else(|| Self::Other(name.to_owned()))
    }

    /// The name in safetensors, or the name by which the type is not known.
    pub fn name(&self) -> &str {
        match self {
            Self::Other(name) => name,
            known => known.number().map_or("", |(name, ..)| name),
        }
    }

    /// Bytes of an element, and how they are read; `None` for a type that is not read.
    pub fn reader(&self) -> Option<(usize, Convert)> {
        self.number().map(|(_, bytes, convert)| (bytes, convert))
    }

    /// True for the types that weights have which are not quantized.
    pub fn is_usual(&self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::Bf16)
    }

    fn number(&self) -> Option<(&'static str, usize, Convert)> {
        Some(match self {
            Self::F64 => ("F64", 8, |bytes, values| {
                add(bytes, |b| f64::from_le_bytes(b) as f32, values)
            }),
            Self::F32 => ("F32", 4, |bytes, values| add(bytes, f32::from_le_bytes, values)),
            Self::F16 => ("F16", 2, |bytes, values| {
                add(bytes, |b| half::f16::from_le_bytes(b).to_f32(), values);
            }),
            Self::Bf16 => ("BF16", 2, |bytes, values| {
                add(bytes, |b| half::bf16::from_le_bytes(b).to_f32(), values);
            }),
            Self::F8E4m3 => ("F8_E4M3", 1, |bytes, values| add(bytes, |[b]| f8_e4m3(b), values)),
            Self::F8E5m2 => ("F8_E5M2", 1, |bytes, values| {
                add(bytes, |[b]| half::f16::from_le_bytes([0, b]).to_f32(), values);
            }),
            Self::I64 => ("I64", 8, |bytes, values| {
                add(bytes, |b| i64::from_le_bytes(b) as f32, values)
            }),
            Self::I32 => ("I32", 4, |bytes, values| {
                add(bytes, |b| i32::from_le_bytes(b) as f32, values)
            }),
            Self::I16 => ("I16", 2, |bytes, values| {
                add(bytes, |b| i16::from_le_bytes(b).into(), values)
            }),
            Self::I8 => ("I8", 1, |bytes, values| {
                add(bytes, |b| i8::from_le_bytes(b).into(), values)
            }),
            Self::U64 => ("U64", 8, |bytes, values| {
                add(bytes, |b| u64::from_le_bytes(b) as f32, values)
            }),
            Self::U32 => ("U32", 4, |bytes, values| {
                add(bytes, |b| u32::from_le_bytes(b) as f32, values)
            }),
            Self::U16 => ("U16", 2, |bytes, values| {
                add(bytes, |b| u16::from_le_bytes(b).into(), values)
            }),
            Self::U8 => ("U8", 1, |bytes, values| add(bytes, |[b]| b.into(), values)),
            Self::Bool => ("BOOL", 1, |bytes, values| {
                add(bytes, |[b]| f32::from(u8::from(b != 0)), values)
            }),
            Self::Other(_) => return None,
        })
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Adds the values of numbers of `N` bytes.
fn add<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32, values: &mut Vec<f32>) {
    let (chunks, _) = bytes.as_chunks::<N>();
    values.extend(chunks.iter().map(|&chunk| value(chunk)));
}

/// The value of an 8-bit number with a bias of 7: <https://arxiv.org/abs/2209.05433>, table 1.
fn f8_e4m3(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 0xf), f32::from(bits & 7));
    let magnitude = match (exponent, bits & 7) {
        (0xf, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if bits & 0x80 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(name: &str, bytes: &[u8]) -> Vec<f32> {
        let (size, convert) = ElementType::named(name).reader().unwrap();
        assert_eq!(bytes.len() % size, 0);
        let mut values = Vec::new();
        convert(bytes, &mut values);
        values
    }

    /// Values of `torch.tensor(…).view(torch.uint8)`.
    #[test]
    fn numbers_of_eight_bits_have_the_values_of_pytorch() {
        let bytes = [0x00, 0x01, 0x07, 0x08, 0x38, 0x3c, 0x7e, 0x80, 0xb9, 0xfe];
        let e4m3 = [
            0.0,
            0.001953125,
            0.013671875,
            0.015625,
            1.0,
            1.5,
            448.0,
            -0.0,
            -1.125,
            -448.0,
        ];
        assert_eq!(values("F8_E4M3", &bytes), e4m3);
        assert!(values("F8_E4M3", &[0x7f, 0xff]).iter().all(|value| value.is_nan()));
        let e5m2 = [
            0.0,
            2f32.powi(-16),
            1.75 * 2f32.powi(-14),
            2f32.powi(-13),
            0.5,
            1.0,
            f32::NAN,
            -0.0,
            -0.625,
        ];
        for (value, expected) in values("F8_E5M2", &bytes).into_iter().zip(e5m2) {
            assert!(
                value == expected || (value.is_nan() && expected.is_nan()),
                "{value} {expected}"
            );
        }
    }

    #[test]
    fn whole_numbers_are_read_with_their_sign() {
        for (name, bytes, expected) in [
            ("I8", vec![0xfe, 3], vec![-2.0, 3.0]),
            ("U8", vec![0xfe], vec![254.0]),
            ("I16", vec![0xfe, 0xff], vec![-2.0]),
            ("U16", vec![0xfe, 0xff], vec![65534.0]),
            ("I32", vec![0xfe, 0xff, 0xff, 0xff], vec![-2.0]),
            ("U32", vec![0, 0, 0, 0x80], vec![2_147_483_648.0]),
            ("I64", (-7i64).to_le_bytes().to_vec(), vec![-7.0]),
            (
                "U64",
                u64::MAX.to_le_bytes().to_vec(),
                vec![18_446_744_073_709_551_615.0],
            ),
            ("BOOL", vec![0, 1, 2], vec![0.0, 1.0, 1.0]),
        ] {
            assert_eq!(values(name, &bytes), expected, "{name}");
            assert_eq!(ElementType::named(name).to_string(), name);
        }
        for name in ["C64", "F8_E8M0", "F4", "", "f32"] {
            let element = ElementType::named(name);
            assert!(element.reader().is_none() && element.name() == name);
        }
    }
}
