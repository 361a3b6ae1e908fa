//! The tasks, and what differs in their errors.

use super::Error;
use crate::pipeline;

/// The tasks that have a body of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    FillMask,
    Score,
    Sparse,
}

impl TaskKind {
    /// The error of a request for this task. Of a text over the limit it says which field of a body truncates it, if the
    /// task has one.
    pub fn error(self, error: pipeline::Error) -> Error {
        let field = match &error {
            pipeline::Error::Input(error) if error.is_over_limit() => self.truncation_field(),
            _ => None,
        };
        let error = Error::from(error);
        match field {
            Some(name) => Error {
                message: format!("{} Set {name} to cut it instead.", error.message).into(),
                ..error
            },
            None => error,
        }
    }

    fn truncation_field(self) -> Option<&'static str> {
        match self {
            Self::FillMask => Some("parameters.truncation"),
            Self::Score => None,
            Self::Sparse => Some("truncate"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::InputError;
    use crate::text::EncodeError;

    #[test]
    fn a_text_over_the_limit_is_refused_with_the_parameter_that_truncates_it() {
        let long = || InputError::Encode(EncodeError::TooManyTokens { tokens: 70, max: 64 });
        for (kind, named) in [
            (TaskKind::FillMask, Some("parameters.truncation")),
            (TaskKind::Sparse, Some("truncate")),
            (TaskKind::Score, None),
        ] {
            for error in [
                long(),
                InputError::InList {
                    index: 3,
                    error: Box::new(long()),
                },
            ] {
                let error = kind.error(error.into());
                assert!(
                    error.is_loggable && error.message.contains("shorten it or split it."),
                    "{error}"
                );
                let named = named.map(|name| format!(" Set {name} to cut it instead."));
                assert!(
                    error.message.ends_with(named.as_deref().unwrap_or("split it.")),
                    "{error}"
                );
            }
        }
        let other = TaskKind::FillMask.error(InputError::NoTarget.into());
        assert!(!other.message.contains("Set "), "{other}");
    }
}
