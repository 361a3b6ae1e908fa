//! SIGTERM while requests come and come.

use std::time::Duration;

use hyper::Method;
use tokio::time::Instant;

use crate::Result;
use crate::client::{Client, text};
use crate::server::{Program, Server};

#[derive(clap::Args)]
pub struct Arguments {
    /// How long the load lasts before the signal
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,

    /// Clients at once, each with one request after the other on one connection
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u64).range(2..=512))]
    clients: u64,

    /// Flags of the server, after --
    #[arg(last = true)]
    flags: Vec<String>,
}

/// Words of each text: enough that most requests wait when the signal comes.
const WORDS: usize = 200;
/// A request that was sent so long before the signal has been read. One that meets the closing of its connection may go
/// unanswered, as whenever a server closes an idle connection; clients send those again.
const READ_BY_THEN: Duration = Duration::from_millis(200);
/// More than answers for all who wait take.
const STOP_MAX: Duration = Duration::from_secs(15);

/// One request that was not answered with 200.
struct Unanswered {
    asked_at: Instant,
    why: String,
}

pub async fn run(program: &Program, arguments: &Arguments) -> Result<Vec<String>> {
    let server = Server::start(program, &arguments.flags).await?;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..arguments.clients {
        let mut client = Client::connect(&server.address).await?;
        clients.spawn(async move {
            let mut answered = Vec::new();
            loop {
                let asked_at = Instant::now();
                let why = match client.ask(Method::POST, "/", text(WORDS)).await {
                    Ok(answer) if answer.status == 200 => {
                        answered.push((asked_at, Instant::now()));
                        continue;
                    }
                    Ok(answer) => format!("status {}", answer.status),
                    Err(error) => error.to_string(),
                };
                break (answered, Unanswered { asked_at, why });
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(arguments.seconds)).await;
    let signal_at = Instant::now();
    server.stop(STOP_MAX).await?;
    let took = signal_at.elapsed();
    let (mut answered, mut unanswered) = (Vec::new(), Vec::new());
    while let Some(of_one) = clients.join_next().await {
        let (theirs, last) = of_one?;
        answered.extend(theirs);
        unanswered.push(last);
    }
    let waited = answered
        .iter()
        .filter(|(asked_at, answered_at)| *asked_at < signal_at && *answered_at > signal_at);
    let waited = waited.count();
    let lost: Vec<_> = unanswered
        .iter()
        .filter(|request| request.asked_at + READ_BY_THEN < signal_at)
        .collect();
    println!(
        "stop     {} requests answered, then SIGTERM: {waited} that waited were answered, {} not; ended well after {took:.1?}",
        answered.len() - waited,
        lost.len()
    );
    let mut failures = Vec::new();
    if let Some(first) = lost.first() {
        let (count, why) = (lost.len(), &first.why);
        failures.push(format!(
            "{count} requests that had been read got no answer, the first: {why}"
        ));
    }
    if waited < arguments.clients as usize / 2 {
        failures.push(format!("only {waited} requests waited, so this was no test"));
    }
    Ok(failures)
}
