//! AMX on a CPU that has none, for tests: every tile instruction raises SIGILL there, and the handler does what it
//! would have done.
//!
//! | file | what it is |
//! |---|---|
//! | `decode` | from the bytes of an instruction to an operation |
//! | `tiles` | the tiles of a thread, and what each operation does to them or what fault it raises |
//! | `products` | the arithmetic of a row |
//!
//! A fault, or an illegal instruction that is none of these, ends the process with a message. One instruction takes a
//! few microseconds.

mod decode;
mod products;
mod tiles;

use std::cell::RefCell;
use std::io::Write;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use self::tiles::Tiles;
use crate::Level;

static INSTALLED: AtomicBool = AtomicBool::new(false);

thread_local! {
    // Neither made nor dropped by code, so a signal handler may use it.
    static TILES: RefCell<Tiles> = const { RefCell::new(Tiles::NONE) };
}

/// Makes [`Level::Amx`] available in this process, by emulation where the CPU lacks it. `false` where the CPU lacks what
/// else belongs to that level.
///
/// # Panics
/// When the system refuses the signal handler.
pub fn install() -> bool {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if Level::detected() != Level::Avx512Bf16 {
            return;
        }
        // SAFETY: all zeros are a valid `sigaction`: no flags, no signals blocked, which the next lines fill in.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_flags = libc::SA_SIGINFO;
        action.sa_sigaction = on_illegal_instruction as *const () as usize;
        // SAFETY: the handler has the signature that SA_SIGINFO asks for.
        let outcome = unsafe { libc::sigaction(libc::SIGILL, &raw const action, std::ptr::null_mut()) };
        assert_eq!(outcome, 0, "no handler for SIGILL: {}", std::io::Error::last_os_error());
        INSTALLED.store(true, Ordering::Release);
    });
    Level::detected() == Level::Amx
}

/// Whether the instructions are emulated.
pub fn is_installed() -> bool {
    INSTALLED.load(Ordering::Acquire)
}

/// Whether this thread's tiles are configured: `None` where the CPU has AMX, and so is not asked.
#[cfg(test)]
pub fn is_configured() -> Option<bool> {
    is_installed().then(|| TILES.with_borrow(Tiles::is_configured))
}

/// The registers' places in a signal's context, in the order of their numbers.
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
    // SAFETY: what the kernel hands to a handler with SA_SIGINFO, alone ours until it returns.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let rip = registers[libc::REG_RIP as usize] as usize as *const u8;
    // SAFETY: the CPU has just fetched the instruction from there; no byte behind its end is asked for.
    let mut code = (0..15).map(|i| unsafe { rip.add(i).read() });
    let register = |number: usize| registers[REGISTERS[number] as usize] as usize;
    let Some((operation, length)) = decode::decode(&mut code, register) else {
        end("an illegal instruction that is none of AMX's");
    };
    // SAFETY: the addresses are those that the instruction would have used; where they are bad, so is the program, and
    // reading them ends it as it would have.
    if let Err(fault) = TILES.with_borrow_mut(|tiles| unsafe { tiles.execute(operation) }) {
        end(&format!("{operation:x?}: {fault:?}"));
    }
    registers[libc::REG_RIP as usize] += length as libc::greg_t;
}

/// Past the test harness, which would keep it to itself.
fn end(reason: &str) -> ! {
    let _ = writeln!(std::io::stderr(), "the AMX emulator: {reason}");
    std::process::abort();
}
