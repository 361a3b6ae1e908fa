//! Instruction sets: detection, names, and functions compiled once for each.

use std::fmt;

use crate::layout::Precision;

/// Instruction sets, each a superset of those of its architecture before it.
///
/// Other crates cannot construct a variant beyond `Portable`: every other value comes from a function here, which has
/// checked the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// The instructions that every CPU of the target has: SSE2 on x86-64, NEON on AArch64.
    Portable,
    /// NEON with micro-kernels of its own: 4 lanes of f32. Every AArch64 CPU has it.
    #[non_exhaustive]
    Neon,
    /// Also `dotprod`: four 8-bit products an instruction and lane.
    #[non_exhaustive]
    NeonDotprod,
    /// AVX2 and FMA: 8 lanes of f32.
    #[non_exhaustive]
    Avx2,
    /// AVX-512 F, BW, DQ and VL: 16 lanes of f32.
    #[non_exhaustive]
    Avx512,
    /// Also `avx512_vnni`: four 8-bit products an instruction and lane.
    #[non_exhaustive]
    Avx512Vnni,
    /// Also `avx512_bf16`: two bf16 products an instruction and lane.
    #[non_exhaustive]
    Avx512Bf16,
    /// Also AMX with bf16 and 8-bit integers: products of tiles.
    #[non_exhaustive]
    Amx,
}

impl Isa {
    /// The instruction sets of all architectures, the smallest of each first.
    pub const ALL: [Self; 8] = [
        Self::Portable,
        Self::Neon,
        Self::NeonDotprod,
        Self::Avx2,
        Self::Avx512,
        Self::Avx512Vnni,
        Self::Avx512Bf16,
        Self::Amx,
    ];

    /// The name that [`named`](Self::named) takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Neon => "neon",
            Self::NeonDotprod => "neon_dotprod",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512_vnni",
            Self::Avx512Bf16 => "avx512_bf16",
            Self::Amx => "amx",
        }
    }

    /// The largest that the CPU has and the system lets this process use.
    #[cfg(target_arch = "x86_64")]
    pub fn detected() -> Self {
        use std::arch::is_x86_feature_detected as has;
        if !(has!("avx2") && has!("fma")) {
            Self::Portable
        } else if !(has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl")) {
            Self::Avx2
        } else if !has!("avx512vnni") {
            Self::Avx512
        } else if !has!("avx512bf16") {
            Self::Avx512Vnni
        } else if !crate::detect::amx_is_usable() {
            Self::Avx512Bf16
        } else {
            Self::Amx
        }
    }

    /// The largest that the CPU has.
    #[cfg(target_arch = "aarch64")]
    pub fn detected() -> Self {
        match std::arch::is_aarch64_feature_detected!("dotprod") {
            true => Self::NeonDotprod,
            false => Self::Neon,
        }
    }

    /// The largest that the CPU has.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub fn detected() -> Self {
        Self::Portable
    }

    /// All that the CPU has, the smallest first.
    pub fn available() -> impl Iterator<Item = Self> {
        let largest = Self::detected();
        Self::ALL
            .into_iter()
            .filter(move |isa| isa.is_of_this_target() && *isa <= largest)
    }

    fn is_of_this_target(self) -> bool {
        let is_arm = matches!(self, Self::Neon | Self::NeonDotprod);
        self == Self::Portable || cfg!(target_arch = "aarch64") && is_arm || cfg!(target_arch = "x86_64") && !is_arm
    }

    /// The instruction set called `name`.
    ///
    /// # Errors
    /// One sentence, if there is no such instruction set or the CPU lacks it.
    pub fn named(name: &str) -> Result<Self, String> {
        let names: Vec<&str> = Self::available().map(Self::name).collect();
        match Self::ALL.into_iter().find(|isa| isa.name() == name) {
            Some(isa) if Self::available().any(|available| available == isa) => Ok(isa),
            Some(_) => Err(format!("this CPU has no {name}; it has {}", names.join(", "))),
            None => Err(format!("\"{name}\" is none of {}", names.join(", "))),
        }
    }

    /// True if products of bf16 take less time than those of f32. Intel's CPUs with `avx512_bf16` multiply two bf16 in
    /// twice the time of one f32, AMD's in the same; with AMX, tiles are faster.
    pub(crate) fn multiplies_bf16(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self >= Self::Amx || self == Self::Avx512Bf16 && !crate::detect::is_of_intel();
        #[cfg(not(target_arch = "x86_64"))]
        false
    }

    /// True if dense layers in `precision` take less time than in f32, for few rows or for many.
    ///
    /// Without products of a type, few rows gain, since they wait for the weights. On AArch64 no type has been measured,
    /// so none counts.
    pub fn is_faster_than_f32(self, precision: Precision) -> bool {
        match precision {
            Precision::F32 => false,
            Precision::Bf16 | Precision::Int8 => self >= Self::Avx2,
        }
    }

    /// Makes [`detected`](Self::detected) report AMX on a CPU that has everything below it but not AMX. For tests that
    /// run AMX in an emulator.
    ///
    /// # Safety
    /// From now on AMX instructions execute in this process.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    pub unsafe fn assume_amx() {
        // SAFETY: the caller's promise.
        unsafe { crate::detect::assume_amx() };
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Defines `$name(isa, arguments)`, which runs a copy of `$body(arguments)` that is compiled for the instruction set.
///
/// The body must be `#[inline(always)]`, so that it is compiled as part of each copy. A body after `fused` has a
/// constant parameter: whether multiply and add are one instruction, which Rust never fuses by itself.
macro_rules! for_each_isa {
    ($(#[$doc:meta])* $visible:vis fn $name:ident($($argument:ident: $kind:ty),* $(,)?) = fused $body:ident) => {
        $crate::isa::for_each_isa! {
            @ $(#[$doc])* $visible $name ($($argument: $kind),*) ($body::<{ cfg!(target_arch = "aarch64") }>) ($body::<true>)
        }
    };
    ($(#[$doc:meta])* $visible:vis fn $name:ident($($argument:ident: $kind:ty),* $(,)?) = $body:path) => {
        $crate::isa::for_each_isa! { @ $(#[$doc])* $visible $name ($($argument: $kind),*) ($body) ($body) }
    };
    (@ $(#[$doc:meta])* $visible:vis $name:ident ($($argument:ident: $kind:ty),*) ($portable:expr) ($vector:expr)) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        $visible fn $name(isa: $crate::isa::Isa, $($argument: $kind),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx2($($argument: $kind),*) {
                    $vector($($argument),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx512($($argument: $kind),*) {
                    $vector($($argument),*)
                }
                match isa {
                    $crate::isa::Isa::Portable => $portable($($argument),*),
                    // SAFETY: an `Isa` beyond `Portable` exists only if the CPU has the instructions.
                    $crate::isa::Isa::Avx2 => unsafe { avx2($($argument),*) },
                    // SAFETY: as above.
                    _ => unsafe { avx512($($argument),*) },
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            {
                let _ = isa;
                $portable($($argument),*)
            }
        }
    };
}
pub(crate) use for_each_isa;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_types_gain_where_there_are_instructions_for_them() {
        let gains = |precision: Precision| -> Vec<&str> {
            let faster = Isa::ALL.into_iter().filter(|isa| isa.is_faster_than_f32(precision));
            faster.map(Isa::name).collect()
        };
        assert!(gains(Precision::F32).is_empty());
        let from_avx2_on = ["avx2", "avx512", "avx512_vnni", "avx512_bf16", "amx"];
        assert_eq!(gains(Precision::Bf16), from_avx2_on);
        assert_eq!(gains(Precision::Int8), from_avx2_on);
    }

    #[test]
    fn instruction_sets_of_other_architectures_are_not_available() {
        let names: Vec<&str> = Isa::available().map(Isa::name).collect();
        let (of_x86, of_arm) = (names.contains(&"avx2"), names.contains(&"neon"));
        assert!(names[0] == "portable" && !(of_x86 && of_arm), "{names:?}");
        assert_eq!(of_arm, cfg!(target_arch = "aarch64"));
        for isa in Isa::ALL {
            assert_eq!(Isa::named(isa.name()).is_ok(), names.contains(&isa.name()), "{isa}");
        }
    }
}
