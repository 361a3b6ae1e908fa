//! Stress tests of a Cloze server on this machine.
//!
//! Each test starts a server on loopback, is bounded in time and connections, and ends with an error if the server does
//! not behave as it must.
//!
//! | file | what it is |
//! |---|---|
//! | `server` | the process under test: its start, its memory, its file descriptors |
//! | `client` | one keep-alive connection |
//! | `overload` | ten times the load that the server can carry, open loop |
//! | `soak` | a mix of good, bad and broken requests; watches memory and file descriptors |
//! | `stop` | SIGTERM under load |
//! | `waiting` | deadlines shorter than the queue, and clients that disconnect |
//! | `connections` | slow heads, and more connections than slots or descriptors |
//! | `attack` | short texts beside the most expensive requests; departures; half-sent bodies; unread answers |
//! | `numbers` | percentiles and slopes |

mod attack;
mod client;
mod connections;
mod numbers;
mod overload;
mod server;
mod soak;
mod stop;
mod waiting;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Errors are sentences.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Parser)]
#[command(about)]
struct Arguments {
    #[command(flatten)]
    program: server::Program,

    /// Also check the limits on time, on an idle machine
    #[arg(long, global = true)]
    timed: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Ten times the load that the server can carry, open loop
    Overload(overload::Arguments),
    /// Deadlines that pass in the queue, and clients that disconnect
    Waiting(waiting::Arguments),
    /// Slow heads, and more connections than slots or descriptors
    Connections(connections::Arguments),
    /// Short texts beside expensive requests, departures, half-sent bodies, unread answers
    Attack(attack::Arguments),
    /// SIGTERM under load
    Stop(stop::Arguments),
    /// Random lengths, errors, disconnects and slow readers
    Soak(soak::Arguments),
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Overload(of_run) => overload::run(&arguments.program, &of_run, arguments.timed).await,
        Command::Connections(of_run) => connections::run(&arguments.program, &of_run, arguments.timed).await,
        Command::Waiting(of_run) => waiting::run(&arguments.program, &of_run, arguments.timed).await,
        Command::Attack(of_run) => attack::run(&arguments.program, &of_run, arguments.timed).await,
        Command::Stop(of_run) => stop::run(&arguments.program, &of_run).await,
        Command::Soak(of_run) => soak::run(&arguments.program, &of_run, arguments.timed).await,
    };
    match outcome {
        Ok(failures) if failures.is_empty() => {
            println!("all of it held");
            ExitCode::SUCCESS
        }
        Ok(failures) => {
            for failure in failures {
                println!("DID NOT HOLD: {failure}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("cloze-stress: {error}");
            ExitCode::FAILURE
        }
    }
}
