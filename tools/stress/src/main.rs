//! Puts a Cloze server on this machine under stress and says what it did.
//!
//! `overload` sends ten times what the server can carry, whether it answers or not; `soak` sends a mix of good,
//! bad and broken requests and watches memory and file descriptors; `connections` holds sockets open in every way that
//! costs a server something; `waiting` wants answers sooner than there can be any, or leaves;
//! `stop` sends SIGTERM under load. All start a server of their own on
//! loopback, are bounded in time and connections, and end with an error when something does not hold.
//!
//! | file | what it is |
//! |---|---|
//! | `server` | the process under test: its start, its memory, its file descriptors |
//! | `client` | one keep-alive connection |
//! | `overload` | the open loop |
//! | `soak` | the mix |
//! | `stop` | SIGTERM under load |
//! | `waiting` | deadlines that pass, and clients that leave |
//! | `connections` | slow heads, and more connections than there are places |
//! | `numbers` | percentiles and slopes |

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

/// Whatever went wrong, as a sentence.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Parser)]
#[command(about)]
struct Arguments {
    #[command(flatten)]
    program: server::Program,

    /// Also hold it to the limits on time; only on a machine that does nothing else
    #[arg(long, global = true)]
    timed: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Ten times the load that the server can carry, open loop
    Overload(overload::Arguments),
    /// Deadlines that pass in the queue, and clients that leave
    Waiting(waiting::Arguments),
    /// Slow heads, and more connections than there are places
    Connections(connections::Arguments),
    /// SIGTERM while requests come and come
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
