//! What a caught panic says.

use std::any::Any;

/// The message of a panic; `None` where it is of another type than `panic!` makes.
pub fn message(panic: &(dyn Any + Send)) -> Option<&str> {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
}
