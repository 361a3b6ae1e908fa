//! Ranges of the numeric flags. A value beyond its range is refused with the range, before anything starts.

use std::ops::RangeInclusive;

use clap::builder::RangedU64ValueParser;

/// A day: the longest time limit.
pub const TIME_LIMIT_MS_MAX: u64 = 86_400_000;
/// The longest batch delay. Longer ones would exceed the time limits of clients.
pub const BATCH_DELAY_MS_MAX: u64 = 60_000;
/// The most compute threads and workers.
pub const THREADS_MAX: u64 = 1024;
/// The most tokens of a batch or a text.
pub const TOKENS_MAX: u64 = 1 << 20;
/// The most texts of a batch.
pub const BATCH_SIZE_MAX: u64 = 65_536;
/// The most texts in the queue.
pub const QUEUE_SIZE_MAX: u64 = 1 << 20;
/// The largest request body.
pub const BODY_BYTES_MAX: u64 = 1 << 30;
/// The most open connections.
pub const CONNECTIONS_MAX: u64 = 1 << 20;

/// Parser of a number in `range`.
pub fn within<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> RangedU64ValueParser<T> {
    RangedU64ValueParser::new().range(range)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use crate::cli::Arguments;

    /// Flags that are no quantities: a text, a name, a file, a switch.
    fn takes_number(argument: &clap::Arg) -> bool {
        let names = argument.get_value_names().unwrap_or_default();
        ["MS", "TOKENS", "TEXTS", "BYTES", "N"]
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
        assert!(checked >= 20, "{checked}");
    }
}
