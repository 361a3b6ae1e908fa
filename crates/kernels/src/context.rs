//! The argument of every kernel: threads and an instruction set.

use crate::isa::Isa;
use crate::pool::Pool;

/// The threads and the instruction set that a kernel uses.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    pub pool: &'a Pool,
    pub isa: Isa,
}
