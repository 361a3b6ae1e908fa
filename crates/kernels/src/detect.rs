//! Detection on x86-64: AMX (CPU, operating system, permission), and the CPU's vendor.

#[cfg(target_os = "linux")]
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(target_os = "linux")]
static AMX_ASSUMED: AtomicBool = AtomicBool::new(false);

/// Makes [`amx_is_usable`] true on any CPU.
///
/// # Safety
/// From now on AMX instructions execute in this process, by the CPU or by an emulator.
#[cfg(target_os = "linux")]
pub unsafe fn assume_amx() {
    AMX_ASSUMED.store(true, Ordering::Release);
}

/// True if the CPU has AMX with bf16 and 8-bit integers and the system lets this process use it. The system is asked
/// once.
#[cfg(target_os = "linux")]
pub fn amx_is_usable() -> bool {
    static USABLE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    AMX_ASSUMED.load(Ordering::Acquire)
        || *USABLE.get_or_init(|| has_instructions() && system_saves_tiles() && system_permits())
}

/// Only Linux's way to request AMX is implemented.
#[cfg(not(target_os = "linux"))]
pub fn amx_is_usable() -> bool {
    false
}

#[cfg(target_os = "linux")]
fn has_instructions() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const BF16: u32 = 1 << 22;
    const TILES: u32 = 1 << 24;
    const INT8: u32 = 1 << 25;
    const ALL: u32 = BF16 | TILES | INT8;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & ALL == ALL
}

/// True if the system saves the tiles when it switches threads.
#[cfg(target_os = "linux")]
fn system_saves_tiles() -> bool {
    use std::arch::x86_64::{__cpuid, _xgetbv};
    const OSXSAVE: u32 = 1 << 27;
    /// Configuration and data.
    const TILE_STATES: u64 = 1 << 17 | 1 << 18;
    #[target_feature(enable = "xsave")]
    fn enabled_states() -> u64 {
        // SAFETY: register 0 exists wherever the instruction does.
        unsafe { _xgetbv(0) }
    }
    // SAFETY: OSXSAVE says that the CPU has the instruction and the system has enabled it.
    __cpuid(1).ecx & OSXSAVE != 0 && unsafe { enabled_states() } & TILE_STATES == TILE_STATES
}

/// Requests permission from Linux, which enlarges the area where it saves this process's registers. It refuses if a
/// thread's alternate signal stack is too small to hold the tiles.
#[cfg(target_os = "linux")]
fn system_permits() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const TILE_DATA: u64 = 18;
    let outcome: i64;
    // SAFETY: the call takes two numbers and touches no memory; the registers that the kernel clobbers are named.
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

/// True on a CPU of Intel.
pub fn is_of_intel() -> bool {
    static IS_OF_INTEL: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *IS_OF_INTEL.get_or_init(|| {
        let vendor = std::arch::x86_64::__cpuid(0);
        [vendor.ebx, vendor.edx, vendor.ecx]
            .map(u32::to_le_bytes)
            .as_flattened()
            == b"GenuineIntel"
    })
}
