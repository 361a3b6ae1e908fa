//! Panics as error values.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Runs `work` and returns its panic, if it panics, as an error. The caller must not use what `work` may have left
/// half changed.
pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T, Panic> {
    catch_unwind(AssertUnwindSafe(work)).map_err(Panic)
}

/// A panic that was caught.
pub struct Panic(Box<dyn Any + Send>);

impl Panic {
    /// The message; `None` if the payload is not a string.
    pub fn message(&self) -> Option<&str> {
        let text = self.0.downcast_ref::<&str>().copied();
        text.or_else(|| self.0.downcast_ref::<String>().map(String::as_str))
    }

    /// Continues the panic.
    pub fn resume(self) -> ! {
        resume_unwind(self.0)
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message().unwrap_or("panic without a message"))
    }
}

impl fmt::Debug for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Panic").field(&self.message()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_a_panic_is_kept() {
        assert_eq!(catch(|| 3).unwrap(), 3);
        let number = 7;
        assert_eq!(catch(|| panic!("literal")).unwrap_err().to_string(), "literal");
        assert_eq!(catch(|| panic!("number {number}")).unwrap_err().to_string(), "number 7");
        let other = catch(|| std::panic::panic_any(7)).unwrap_err();
        assert_eq!(
            (other.message(), other.to_string().as_str()),
            (None, "panic without a message")
        );
    }
}
