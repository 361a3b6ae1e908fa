//! Whether AMX can be used.

/// Whether the CPU has AMX with bf16 and 8-bit integers, and the system lets this process use it, for which it is asked
/// once.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub fn is_usable() -> bool {
    #[cfg(any(test, feature = "amx-emulator"))]
    if crate::emulator::is_installed() {
        return true;
    }
    static USABLE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *USABLE.get_or_init(|| has_instructions() && system_keeps_tiles() && system_permits())
}

/// Elsewhere nobody has tried how to ask for it.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub fn is_usable() -> bool {
    false
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn has_instructions() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const BF16: u32 = 1 << 22;
    const TILES: u32 = 1 << 24;
    const INT8: u32 = 1 << 25;
    const ALL: u32 = BF16 | TILES | INT8;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & ALL == ALL
}

/// Whether the system saves the tiles when it switches threads.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn system_keeps_tiles() -> bool {
    use std::arch::x86_64::{__cpuid, _xgetbv};
    const OSXSAVE: u32 = 1 << 27;
    /// Configuration and data.
    const TILE_STATES: u64 = 1 << 17 | 1 << 18;
    #[target_feature(enable = "xsave")]
    fn enabled_states() -> u64 {
        // SAFETY: register 0 exists wherever the instruction does.
        unsafe { _xgetbv(0) }
    }
    // SAFETY: OSXSAVE says that the instruction is there and the system has switched it on.
    __cpuid(1).ecx & OSXSAVE != 0 && unsafe { enabled_states() } & TILE_STATES == TILE_STATES
}

/// Asks Linux, which gives each process that does the room to keep its tiles. It refuses where a thread's stack for
/// signals is too small to hold them.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn system_permits() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const TILE_DATA: u64 = 18;
    let outcome: i64;
    // SAFETY: the call takes two numbers and touches no memory; the kernel clobbers what is named.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => outcome,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") TILE_DATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    outcome == 0
}
