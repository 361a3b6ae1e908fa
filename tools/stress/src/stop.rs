//! SIGTERM under load.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

use crate::Result;
use crate::client::{Client, text};
use crate::server::{Program, Server};

#[derive(clap::Args)]
pub struct Arguments {
    /// Seconds of load before the signal
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,

    /// Clients at once, each with one request after the other on one connection
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u64).range(2..=512))]
    clients: u64,

    /// Flags of the server, after --
    #[arg(last = true)]
    flags: Vec<String>,
}

/// Words of each text: enough that most requests are queued at the signal.
const WORDS: usize = 200;
/// Longer than all queued requests take on a slow machine.
const STOP_MAX: Duration = Duration::from_secs(70);
/// The server's timeout for a stop.
const FLAGS: [&str; 4] = ["--shutdown-timeout-ms", "60000", "--request-timeout-ms", "60000"];

/// One request. The server must answer it if it confirmed that it reads it. A request that arrives while the server
/// closes the idle connection may stay unanswered; clients retry those.
struct Asked {
    read_at: Option<Instant>,
    ended_at: Instant,
    /// The error in place of an answer.
    failed: Option<String>,
}

pub async fn run(program: &Program, arguments: &Arguments) -> Result<Vec<String>> {
    let flags: Vec<String> = FLAGS
        .into_iter()
        .map(str::to_owned)
        .chain(arguments.flags.clone())
        .collect();
    let server = Server::start(program, &flags).await?;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..arguments.clients {
        let mut client = Client::connect(&server.address).await?;
        clients.spawn(async move {
            let mut all = Vec::new();
            loop {
                let read_at = Arc::new(OnceLock::new());
                let heard = Arc::clone(&read_at);
                let answer = client.ask_and_hear(text(WORDS), move || {
                    heard.get_or_init(Instant::now);
                });
                let failed = match answer.await {
                    Ok(answer) if answer.status == 200 => None,
                    Ok(answer) => Some(format!("status {}", answer.status)),
                    Err(error) => Some(error.to_string()),
                };
                let is_last = failed.is_some();
                all.push(Asked {
                    read_at: read_at.get().copied(),
                    ended_at: Instant::now(),
                    failed,
                });
                if is_last {
                    break all;
                }
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(arguments.seconds)).await;
    let signal_at = Instant::now();
    server.stop(STOP_MAX).await?;
    let took = signal_at.elapsed();
    let mut all = Vec::new();
    while let Some(of_one) = clients.join_next().await {
        all.extend(of_one?);
    }
    let is_owed = |asked: &&Asked| asked.ended_at <= signal_at || asked.read_at.is_some_and(|at| at < signal_at);
    let (answered, lost): (Vec<_>, Vec<_>) = all.iter().filter(is_owed).partition(|asked| asked.failed.is_none());
    let before = answered.iter().filter(|asked| asked.ended_at <= signal_at).count();
    let waited = answered.len() - before;
    println!(
        "stop     {before} requests answered, then SIGTERM: {waited} that waited were answered, {} not; ended well after {took:.1?}",
        lost.len()
    );
    let mut failures = Vec::new();
    if let Some(why) = lost.first().and_then(|first| first.failed.as_ref()) {
        let count = lost.len();
        failures.push(format!(
            "{count} requests that had been read got no answer, the first: {why}"
        ));
    }
    if waited < arguments.clients as usize / 2 {
        failures.push(format!("only {waited} requests waited, so this was no test"));
    }
    Ok(failures)
}
