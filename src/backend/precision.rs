//! `Precision`: the one type for it, from the command line to the kernels.

use std::fmt;
use std::str::FromStr;

/// The type that weights are kept in and products are computed with. Sums, softmax and normalization are always f32.
///
/// Which part of a model keeps a higher one is decided by [`PrecisionPolicy`](crate::encoder::PrecisionPolicy).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    #[default]
    F32,
    /// Half precision, on a GPU that has it.
    F16,
    /// On the CPU: weights, and the activations that they multiply, rounded to bf16.
    Bf16,
    /// On the CPU: both in 8 bits, weights with a scale for each output, activations with one for each row.
    Int8,
}

impl Precision {
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Bf16, Self::Int8];

    /// `f32`, `f16`, `bf16` or `int8`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|precision| precision.name() == name);
        named.ok_or_else(|| format!("\"{name}\" is not a precision; there are f32, f16, bf16 and int8"))
    }
}

/// A precision that a backend does not compute in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the backend cannot compute in {requested}; it can in {}", list(.supported))]
pub struct UnsupportedPrecision {
    pub requested: Precision,
    pub supported: &'static [Precision],
}

impl UnsupportedPrecision {
    /// Refuses `requested` unless `supported` has it.
    ///
    /// # Errors
    /// Itself.
    pub fn check(requested: Precision, supported: &'static [Precision]) -> Result<(), Self> {
        match supported.contains(&requested) {
            true => Ok(()),
            false => Err(Self { requested, supported }),
        }
    }
}

/// As a sentence lists them: `f32, bf16 and int8`.
pub fn list(precisions: &[Precision]) -> String {
    let names: Vec<&str> = precisions.iter().map(|precision| precision.name()).collect();
    match names.split_last() {
        Some((last, first @ [_, ..])) => format!("{} and {last}", first.join(", ")),
        _ => names.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_precision_is_parsed_from_its_name() {
        for precision in Precision::ALL {
            assert_eq!(precision.to_string().parse(), Ok(precision));
        }
        assert!("f64".parse::<Precision>().is_err());
    }

    #[test]
    fn an_unsupported_precision_is_refused_with_the_supported_ones() {
        use Precision::{Bf16, F16, F32, Int8};
        assert!(UnsupportedPrecision::check(Bf16, &[F32, Bf16]).is_ok());
        for (supported, listed) in [
            (&[F32][..], "it can in f32"),
            (&[F32, Bf16], "it can in f32 and bf16"),
            (&[F32, Bf16, Int8], "it can in f32, bf16 and int8"),
        ] {
            let error = UnsupportedPrecision::check(F16, supported).unwrap_err().to_string();
            assert!(
                error.contains("cannot compute in f16") && error.ends_with(listed),
                "{error}"
            );
        }
    }
}
