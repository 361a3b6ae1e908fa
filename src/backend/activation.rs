//! Activation functions, named as in transformers' config files.

use super::{EncoderBackend, Tensor};

/// The activation of a feed-forward block or of the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x · Φ(x)` with the error function: <https://arxiv.org/abs/1606.08415>, equation 1.
    Gelu,
    /// The tanh form of GELU, `gelu_new` and `gelu_pytorch_tanh` in config files: the same paper, section 2.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `x · sigmoid(x)`, also called swish.
    Silu,
    /// Computed in plain Burn by every backend.
    Rare(RareActivation),
}

/// Activations that few models have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RareActivation {
    /// `x · sigmoid(1.702 x)`.
    QuickGelu,
    /// GELU, at most 10 and at least -10.
    ClippedGelu,
    /// `x · tanh(softplus(x))`: <https://arxiv.org/abs/1908.08681>.
    Mish,
    /// `max(x, 0)²`.
    SquaredRelu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x`, or `0.01 x` if it is negative.
    LeakyRelu,
    /// `x · min(max(x + 3, 0), 6) / 6`.
    HardSwish,
    Sigmoid,
    Tanh,
    /// `x`.
    Linear,
    /// The normal distribution of mean 0.707107 and deviation 0.282095: <https://arxiv.org/abs/2209.10655>.
    Laplace,
    /// `√softplus(x)`.
    SqrtSoftplus,
}

impl RareActivation {
    /// The names in config files.
    pub const NAMES: [(&'static str, Self); 12] = [
        ("quick_gelu", Self::QuickGelu),
        ("gelu_10", Self::ClippedGelu),
        ("mish", Self::Mish),
        ("relu2", Self::SquaredRelu),
        ("relu6", Self::Relu6),
        ("leaky_relu", Self::LeakyRelu),
        ("hardswish", Self::HardSwish),
        ("sigmoid", Self::Sigmoid),
        ("tanh", Self::Tanh),
        ("linear", Self::Linear),
        ("laplace", Self::Laplace),
        ("sqrtsoftplus", Self::SqrtSoftplus),
    ];

    fn apply<B: EncoderBackend, const D: usize>(self, x: Tensor<B, D>) -> Tensor<B, D> {
        match self {
            Self::QuickGelu => x.clone() * (x * 1.702).sigmoid(),
            Self::ClippedGelu => x.gelu().clamp(-10.0, 10.0),
            Self::Mish => x.clone() * softplus(x).tanh(),
            Self::SquaredRelu => {
                let positive = x.relu();
                positive.clone() * positive
            }
            Self::Relu6 => x.clamp(0.0, 6.0),
            Self::LeakyRelu => x.clone().relu() + x.clamp_max(0.0) * 0.01,
            Self::HardSwish => x.clone() * (x + 3.0).clamp(0.0, 6.0) / 6.0,
            Self::Sigmoid => x.sigmoid(),
            Self::Tanh => x.tanh(),
            Self::Linear => x,
            Self::Laplace => {
                // The constants of transformers, which are rounded to millionths.
                let (mean, deviation) = (707_107.0 / 1e6, 282_095.0 / 1e6);
                (((x - mean) / (deviation * std::f64::consts::SQRT_2)).erf() + 1.0) * 0.5
            }
            Self::SqrtSoftplus => softplus(x).sqrt(),
        }
    }
}

/// `ln(1 + exp(x))`, without an overflow of exp.
fn softplus<B: EncoderBackend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    x.clone().relu() + (-x.abs()).exp().log1p()
}

impl Activation {
    /// The usual name in config files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_new",
            Self::Relu => "relu",
            Self::Silu => "silu",
            Self::Rare(rare) => {
                let mut names = RareActivation::NAMES.into_iter();
                names.find(|(_, known)| *known == rare).map_or("", |(name, _)| name)
            }
        }
    }

    /// The activation of a name in config files.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "gelu" | "gelu_python" => Self::Gelu,
            // The same function, written in five ways.
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_fast" | "gelu_accurate" => Self::GeluTanh,
            "relu" => Self::Relu,
            "silu" | "swish" => Self::Silu,
            name => {
                let mut names = RareActivation::NAMES.into_iter();
                Self::Rare(names.find(|(known, _)| *known == name)?.1)
            }
        })
    }

    /// Applies the activation element by element, in plain Burn.
    pub fn apply<B: EncoderBackend, const D: usize>(self, x: Tensor<B, D>) -> Tensor<B, D> {
        match self {
            Self::Gelu => x.gelu(),
            Self::GeluTanh => {
                // 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))
                let inner =
                    (x.clone() * x.clone() * x.clone() * 0.044715 + x.clone()) * std::f64::consts::FRAC_2_PI.sqrt();
                x * (inner.tanh() + 1.0) * 0.5
            }
            Self::Relu => x.relu(),
            Self::Silu => x.clone() * x.sigmoid(),
            Self::Rare(rare) => rare.apply(x),
        }
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;

    /// Computed by `ACT2FN` of transformers 5.24 in f64.
    #[test]
    fn values_are_those_of_transformers() {
        let x: [f32; 9] = [-30.0, -8.0, -2.5, -0.7, 0.0, 0.3, 1.0, 5.0, 100.0];
        let expected: [(&str, [f64; 9]); 16] = [
            (
                "gelu",
                [
                    -1.47201418e-196,
                    -4.97676846e-15,
                    -0.0155241633,
                    -0.169374556,
                    0.0,
                    0.185373435,
                    0.841344746,
                    4.99999857,
                    100.0,
                ],
            ),
            (
                "gelu_new",
                [
                    0.0,
                    0.0,
                    -0.0150842661,
                    -0.169429865,
                    0.0,
                    0.185370932,
                    0.841191991,
                    4.99999977,
                    100.0,
                ],
            ),
            ("relu", [0.0, 0.0, 0.0, 0.0, 0.0, 0.300000012, 1.0, 5.0, 100.0]),
            (
                "silu",
                [
                    -2.80728689e-12,
                    -0.00268280104,
                    -0.18964545,
                    -0.232268557,
                    0.0,
                    0.172332763,
                    0.731058579,
                    4.96653575,
                    100.0,
                ],
            ),
            (
                "quick_gelu",
                [
                    -2.00467977e-21,
                    -9.76642887e-06,
                    -0.034986165,
                    -0.163106048,
                    0.0,
                    0.187484144,
                    0.845795766,
                    4.99899298,
                    100.0,
                ],
            ),
            (
                "gelu_10",
                [
                    -1.47201418e-196,
                    -4.97676846e-15,
                    -0.0155241633,
                    -0.169374556,
                    0.0,
                    0.185373435,
                    0.841344746,
                    4.99999857,
                    10.0,
                ],
            ),
            (
                "mish",
                [
                    -2.80728689e-12,
                    -0.00268325088,
                    -0.196816204,
                    -0.267870233,
                    0.0,
                    0.208001382,
                    0.865098388,
                    4.99955208,
                    100.0,
                ],
            ),
            ("relu2", [0.0, 0.0, 0.0, 0.0, 0.0, 0.0900000072, 1.0, 25.0, 10000.0]),
            ("relu6", [0.0, 0.0, 0.0, 0.0, 0.0, 0.300000012, 1.0, 5.0, 6.0]),
            (
                "leaky_relu",
                [-0.3, -0.08, -0.025, -0.00699999988, 0.0, 0.300000012, 1.0, 5.0, 100.0],
            ),
            (
                "hardswish",
                [
                    0.0,
                    0.0,
                    -0.208333333,
                    -0.26833333,
                    0.0,
                    0.165000007,
                    0.666666667,
                    5.0,
                    100.0,
                ],
            ),
            (
                "sigmoid",
                [
                    9.35762297e-14,
                    0.00033535013,
                    0.07585818,
                    0.33181223,
                    0.5,
                    0.57444252,
                    0.731058579,
                    0.993307149,
                    1.0,
                ],
            ),
            (
                "tanh",
                [
                    -1.0,
                    -0.999999775,
                    -0.986614298,
                    -0.60436777,
                    0.0,
                    0.291312623,
                    0.761594156,
                    0.999909204,
                    1.0,
                ],
            ),
            (
                "linear",
                [-30.0, -8.0, -2.5, -0.699999988, 0.0, 0.300000012, 1.0, 5.0, 100.0],
            ),
            (
                "laplace",
                [
                    0.0,
                    1.71557446e-209,
                    2.98712697e-30,
                    3.04942014e-07,
                    0.00609445962,
                    0.0744883173,
                    0.850429649,
                    1.0,
                    1.0,
                ],
            ),
            (
                "sqrtsoftplus",
                [
                    3.05902321e-07,
                    0.0183141031,
                    0.280873164,
                    0.634969332,
                    0.832554611,
                    0.924313395,
                    1.1459763,
                    2.23756907,
                    10.0,
                ],
            ),
        ];
        let names: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
        for (name, _) in RareActivation::NAMES {
            assert!(names.contains(&name), "{name}");
        }
        for (name, expected) in expected {
            let activation = Activation::named(name).unwrap();
            assert_eq!(activation.name(), name);
            let computed = activation.apply(Tensor::<Cpu, 1>::from_data(x, &Default::default()));
            let computed = computed.into_vec().unwrap();
            for ((x, computed), expected) in x.iter().zip(computed).zip(expected) {
                let error = (f64::from(computed) - expected).abs();
                assert!(
                    error <= 1e-7 + 2e-6 * expected.abs(),
                    "{name}({x}) is {computed}, not {expected}"
                );
            }
        }
        assert_eq!(Activation::named("prelu"), None);
    }
}
