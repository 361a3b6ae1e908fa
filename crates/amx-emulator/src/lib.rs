//! AMX on CPUs without AMX, for tests. Every tile instruction raises SIGILL there; the signal handler computes its
//! result.
//!
//! | file | subject |
//! |---|---|
//! | `decode` | decoding of instructions |
//! | `tiles` | the tile registers of a thread; operations and their faults |
//! | `products` | the arithmetic of a row |
//!
//! A fault, or another illegal instruction, ends the process with a message. An instruction takes a few microseconds.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod decode;
mod products;
mod tiles;

use std::cell::RefCell;
use std::io::Write;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use self::tiles::Tiles;

static INSTALLED: AtomicBool = AtomicBool::new(false);

thread_local! {
    // A constant without a destructor, so a signal handler may use it.
    static TILES: RefCell<Tiles> = const { RefCell::new(Tiles::NONE) };
}

/// Emulates AMX in this process from now on, then calls `assume_amx`, which may rely on that.
///
/// Only for CPUs without AMX; it does no harm on others.
///
/// # Panics
/// If the system refuses the signal handler.
pub fn install(assume_amx: unsafe fn()) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: all zeros are a valid `sigaction`: no flags, no blocked signals. The next lines set the fields.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_flags = libc::SA_SIGINFO;
        action.sa_sigaction = on_illegal_instruction as *const () as usize;
        // SAFETY: the handler has the signature that SA_SIGINFO requires.
        let outcome = unsafe { libc::sigaction(libc::SIGILL, &raw const action, std::ptr::null_mut()) };
        assert_eq!(outcome, 0, "no handler for SIGILL: {}", std::io::Error::last_os_error());
        INSTALLED.store(true, Ordering::Release);
    });
    // SAFETY: tile instructions execute in this process: the handler emulates them.
    unsafe { assume_amx() };
}

/// True if the tiles of this thread are configured; `None` if AMX is not emulated.
pub fn tiles_are_configured() -> Option<bool> {
    let is_installed = INSTALLED.load(Ordering::Acquire);
    is_installed.then(|| TILES.with_borrow(Tiles::is_configured))
}

/// The indices of the general registers in a signal's context, in the order of their numbers.
const REGISTERS: [libc::c_int; 16] = [
    libc::REG_RAX,
    libc::REG_RCX,
    libc::REG_RDX,
    libc::REG_RBX,
    libc::REG_RSP,
    libc::REG_RBP,
    libc::REG_RSI,
    libc::REG_RDI,
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

extern "C" fn on_illegal_instruction(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a context to a handler with SA_SIGINFO, for its exclusive use until it returns.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let rip = registers[libc::REG_RIP as usize] as usize as *const u8;
    // SAFETY: the CPU has just fetched the instruction from there; no byte beyond its end is read.
    let mut code = (0..15).map(|i| unsafe { rip.add(i).read() });
    let register = |number: usize| registers[REGISTERS[number] as usize] as usize;
    let Some((operation, length)) = decode::decode(&mut code, register) else {
        end("an illegal instruction that is not one of AMX");
    };
    // SAFETY: the addresses are those that the instruction uses. If they are invalid, so is the program, and it ends as
    // it would without the emulator.
    if let Err(fault) = TILES.with_borrow_mut(|tiles| unsafe { tiles.execute(operation) }) {
        end(&format!("{operation:x?}: {fault:?}"));
    }
    registers[libc::REG_RIP as usize] += length as libc::greg_t;
}

/// Writes to standard error directly, since the test harness captures the output of macros.
fn end(reason: &str) -> ! {
    let _ = writeln!(std::io::stderr(), "the AMX emulator: {reason}");
    std::process::abort();
}
