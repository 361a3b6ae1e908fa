//! Which vector instructions are used.

use std::fmt;

/// Sets of instructions, each containing the ones before it.
///
/// Nobody outside can make one beyond the portable: who has one had it from a function here, which asked the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Whatever every CPU of the target has: SSE2 on x86-64, NEON on AArch64.
    Portable,
    /// AVX2 and FMA: 8 values at once.
    #[non_exhaustive]
    Avx2,
    /// AVX-512 F, BW, DQ and VL: 16 values at once.
    #[non_exhaustive]
    Avx512,
    /// And `avx512_vnni`: four 8-bit products an instruction and lane.
    #[non_exhaustive]
    Avx512Vnni,
    /// And `avx512_bf16`: two bf16 products an instruction and lane.
    #[non_exhaustive]
    Avx512Bf16,
    /// And Intel's AMX with bf16 and 8-bit integers: products of whole tiles.
    #[non_exhaustive]
    Amx,
}

impl Level {
    /// All, the least first.
    pub(crate) const ALL: [Self; 6] = [
        Self::Portable,
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
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512_vnni",
            Self::Avx512Bf16 => "avx512_bf16",
            Self::Amx => "amx",
        }
    }

    /// The best that this CPU has and the system lets this process use.
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
        } else if !crate::amx::is_usable() {
            Self::Avx512Bf16
        } else {
            Self::Amx
        }
    }

    /// The best that this CPU has.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn detected() -> Self {
        Self::Portable
    }

    /// All that this CPU has, the least first.
    pub fn available() -> impl Iterator<Item = Self> {
        let best = Self::detected();
        Self::ALL.into_iter().filter(move |&level| level <= best)
    }

    /// The level called `name`.
    ///
    /// # Errors
    /// One sentence, when there is no such level or this CPU lacks it.
    pub fn named(name: &str) -> Result<Self, String> {
        let names: Vec<&str> = Self::available().map(Self::name).collect();
        match Self::ALL.into_iter().find(|level| level.name() == name) {
            Some(level) if level <= Self::detected() => Ok(level),
            Some(_) => Err(format!("this CPU has no {name}; it has {}", names.join(", "))),
            None => Err(format!("\"{name}\" is none of {}", names.join(", "))),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let neon = cfg!(target_arch = "aarch64") && *self == Self::Portable;
        f.write_str(if neon { "neon" } else { self.name() })
    }
}

/// Defines `$name(level, arguments)`, which runs `$body(arguments)` compiled for the instructions of the level.
/// The body must be `#[inline(always)]`, so that each copy is compiled anew. A body after `fused` is told by a constant
/// whether the CPU multiplies and adds in one instruction, which Rust never does by itself.
macro_rules! for_each_level {
    ($(#[$doc:meta])* $visible:vis fn $name:ident($($argument:ident: $kind:ty),* $(,)?) = fused $body:ident) => {
        $crate::level::for_each_level! {
            @ $(#[$doc])* $visible $name ($($argument: $kind),*) ($body::<{ cfg!(target_arch = "aarch64") }>) ($body::<true>)
        }
    };
    ($(#[$doc:meta])* $visible:vis fn $name:ident($($argument:ident: $kind:ty),* $(,)?) = $body:path) => {
        $crate::level::for_each_level! { @ $(#[$doc])* $visible $name ($($argument: $kind),*) ($body) ($body) }
    };
    (@ $(#[$doc:meta])* $visible:vis $name:ident ($($argument:ident: $kind:ty),*) ($portable:expr) ($vector:expr)) => {
        $(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        $visible fn $name(level: $crate::Level, $($argument: $kind),*) {
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
                match level {
                    $crate::Level::Portable => $portable($($argument),*),
                    // SAFETY: a level above the portable one exists only where the CPU was found to have it (see `Level`).
                    $crate::Level::Avx2 => unsafe { avx2($($argument),*) },
                    // SAFETY: as above.
                    _ => unsafe { avx512($($argument),*) },
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            {
                let _ = level;
                $portable($($argument),*)
            }
        }
    };
}
pub(crate) use for_each_level;
