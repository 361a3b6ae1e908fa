//! Values of numeric flags and switches. A number beyond its range is refused with the range, before anything starts.

use std::ops::RangeInclusive;

use clap::builder::TypedValueParser;

/// A day: the longest time limit.
pub const TIME_LIMIT_MS_MAX: u64 = 86_400_000;
/// The longest batch delay. Longer ones would exceed the time limits of clients.
pub const BATCH_DELAY_MS_MAX: u64 = 60_000;
/// The most compute threads and workers.
pub const THREADS_MAX: u64 = 1024;
/// The most tokens of a batch or a text.
pub const TOKENS_MAX: u64 = 1 << 20;
pub const BATCH_SIZE_MAX: u64 = 65_536;
/// In texts.
pub const QUEUE_SIZE_MAX: u64 = 1 << 20;
pub const BODY_BYTES_MAX: u64 = 1 << 30;
pub const CONNECTIONS_MAX: u64 = 1 << 20;

pub const PORT_MAX: u64 = u16::MAX as u64;

/// Parser of a number in `range`.
pub fn within<T>(range: RangeInclusive<u64>) -> impl TypedValueParser<Value = T>
where
    T: TryFrom<u64> + Clone + Send + Sync + 'static,
{
    move |text: &str| {
        let number = text.parse::<u64>().ok().filter(|number| range.contains(number));
        let number = number.and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| format!("write a whole number from {} to {}", range.start(), range.end()))
    }
}

/// Parser of a switch, for its variable.
///
/// # Errors
/// The values that it takes.
pub fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("write 1, true, yes or on, or 0, false, no or off".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use crate::cli::Arguments;

    /// Flags that are no quantities: a text, a name, a file, a switch.
    fn takes_number(argument: &clap::Arg) -> bool {
        let names = argument.get_value_names().unwrap_or_default();
        ["MS", "TOKENS", "TEXTS", "BYTES", "N", "PORT"]
            .iter()
            .any(|unit| names.iter().any(|name| name == unit))
    }

    #[test]
    fn every_quantity_has_an_upper_bound() {
        let command = Arguments::command();
        let subcommands = ["predict", "health"].map(|name| command.find_subcommand(name).unwrap());
        let mut checked = 0;
        for (name, command) in [("", &command), ("predict", subcommands[0]), ("health", subcommands[1])] {
            for argument in command.get_arguments().filter(|argument| takes_number(argument)) {
                let flag = format!("--{}", argument.get_long().unwrap());
                for value in ["18446744073709551615", "18446744073709551616", "-1", "1e3"] {
                    let line = ["cloze", name, &flag, value];
                    let line = line.iter().filter(|part| !part.is_empty());
                    let error = Arguments::try_parse_from(line).unwrap_err().to_string();
                    assert!(
                        error.contains(&format!("'{flag}")) || value.starts_with('-'),
                        "{flag} {value}: {error}"
                    );
                }
                checked += 1;
            }
        }
        assert!(checked >= 22, "{checked}");
    }
}
