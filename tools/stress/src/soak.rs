//! Random lengths, errors, disconnects and slow readers.
//!
//! Requests are written as bytes, because most of them are malformed on purpose.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::Result;
use crate::client::unless_it_hangs;
use crate::numbers::slope;
use crate::server::{Program, Sample, Server};

#[derive(clap::Args)]
pub struct Arguments {
    /// Seconds of the test
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(5..=86_400))]
    seconds: u64,

    /// Clients at once
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=1000))]
    clients: u64,

    /// The longest pause of a client after each action, for a soak beside other work
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,

    /// Where to write memory and descriptors over time, as CSV
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,

    /// Only these actions [default: all]
    #[arg(long, value_name = "DEED", value_delimiter = ',')]
    only: Vec<Action>,

    /// Seed of the random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Flags of the server, after --
    #[arg(last = true)]
    flags: Vec<String>,
}

/// The share of the run that counts as warm-up, in which buffers and threads are created.
const WARM_UP: f64 = 0.3;
const SAMPLE_EVERY: Duration = Duration::from_millis(500);
/// The largest growth of memory per hour after warm-up.
const MB_AN_HOUR_MAX: f64 = 1.0;
/// In a run too short for a slope, the largest growth of memory in all.
const SHORT_RUN_MB_MAX: f64 = 24.0;
const LONG_RUN: Duration = Duration::from_secs(1800);

/// One action of a client.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Action {
    Text,
    List,
    NoMask,
    NotJson,
    FarTooLong,
    LeaveBeforeTheAnswer,
    LeaveWithinTheBody,
    ReadSlowly,
    Health,
    Nowhere,
}

const ACTIONS: [Action; 10] = [
    Action::Text,
    Action::List,
    Action::NoMask,
    Action::NotJson,
    Action::FarTooLong,
    Action::LeaveBeforeTheAnswer,
    Action::LeaveWithinTheBody,
    Action::ReadSlowly,
    Action::Health,
    Action::Nowhere,
];

impl Action {
    /// The statuses of a correct server; none if the client does not read the answer.
    fn statuses(self) -> &'static [u16] {
        match self {
            // A long text may exceed the model's limit.
            Self::Text | Self::List | Self::ReadSlowly => &[200, 422, 503, 504],
            Self::NoMask | Self::NotJson => &[400, 422, 503],
            Self::FarTooLong => &[422, 503],
            Self::Health => &[200],
            Self::Nowhere => &[404],
            Self::LeaveBeforeTheAnswer | Self::LeaveWithinTheBody => &[],
        }
    }

    fn request(self, rng: &mut StdRng) -> Vec<u8> {
        let text = |rng: &mut StdRng| "word ".repeat(rng.random_range(1..400)) + "[MASK]";
        let (method, path, content_type, body) = match self {
            Self::Text | Self::ReadSlowly | Self::LeaveBeforeTheAnswer | Self::LeaveWithinTheBody => {
                ("POST", "/", "text/plain", text(rng))
            }
            Self::List => {
                let texts: Vec<String> = (0..rng.random_range(1..32)).map(|_| text(rng)).collect();
                (
                    "POST",
                    "/v1/fill-mask",
                    "application/json",
                    serde_json::json!({ "inputs": texts }).to_string(),
                )
            }
            Self::NoMask => ("POST", "/", "text/plain", "word ".repeat(rng.random_range(1..400))),
            Self::NotJson => ("POST", "/", "application/json", "[".repeat(rng.random_range(1..10_000))),
            Self::FarTooLong => (
                "POST",
                "/",
                "text/plain",
                "[MASK] ".repeat(rng.random_range(1000..50_000)),
            ),
            Self::Health => ("GET", "/health", "text/plain", String::new()),
            Self::Nowhere => ("GET", "/nowhere", "text/plain", String::new()),
        };
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {content_type}\r\n\
             content-length: {length}\r\n\r\n"
        );
        (head + &body).into_bytes()
    }

    /// Performs the action; returns the status, or `None` if the client does not read it.
    async fn run(self, address: &str, rng: &mut StdRng) -> Result<Option<u16>> {
        let request = self.request(rng);
        let mut stream = TcpStream::connect(address).await?;
        match self {
            Self::LeaveWithinTheBody => {
                let part = rng.random_range(1..request.len());
                stream.write_all(&request[..part]).await?;
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..50))).await;
                return Ok(None);
            }
            Self::LeaveBeforeTheAnswer => {
                stream.write_all(&request).await?;
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..50))).await;
                return Ok(None);
            }
            // The server may refuse before it has read the whole body.
            _ => drop(stream.write_all(&request).await),
        }
        let mut response = Vec::new();
        if let Self::ReadSlowly = self {
            let mut byte = [0; 64];
            loop {
                tokio::time::sleep(Duration::from_millis(10)).await;
                match stream.read(&mut byte).await? {
                    0 => break,
                    read => response.extend_from_slice(&byte[..read]),
                }
            }
        } else {
            stream.read_to_end(&mut response).await?;
        }
        let head = String::from_utf8_lossy(&response);
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        status
            .map(Some)
            .ok_or_else(|| "the connection closed without an answer".into())
    }
}

pub async fn run(program: &Program, arguments: &Arguments, timed: bool) -> Result<Vec<String>> {
    let server = Server::start(program, &arguments.flags).await?;
    // Each action once, one after the other, so that their buffers exist from then on.
    let mut rng = StdRng::seed_from_u64(arguments.seed);
    for action in ACTIONS {
        action.run(&server.address, &mut rng).await?;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let idle = server.sample()?;

    let begun = std::time::Instant::now();
    let time = Duration::from_secs(arguments.seconds);
    let done = Arc::new(AtomicUsize::new(0));
    let mut clients = tokio::task::JoinSet::new();
    let pause_ms = arguments.pause_ms;
    let actions: Arc<[Action]> = match &arguments.only[..] {
        [] => ACTIONS.into(),
        only => only.into(),
    };
    for number in 0..arguments.clients {
        let (address, done, actions) = (server.address.clone(), Arc::clone(&done), Arc::clone(&actions));
        let mut rng = StdRng::seed_from_u64(arguments.seed.wrapping_add(1 + number));
        clients.spawn(async move {
            let mut wrong = Vec::new();
            while begun.elapsed() < time {
                let action = actions[rng.random_range(0..actions.len())];
                match unless_it_hangs(action.run(&address, &mut rng)).await {
                    None => wrong.push(format!("{action:?}: no answer, the server hangs")),
                    // The server may reset the connection when it refuses a long body early.
                    Some(Err(error)) if !matches!(action, Action::FarTooLong) => {
                        wrong.push(format!("{action:?}: {error}"))
                    }
                    Some(Ok(Some(status))) if !action.statuses().contains(&status) => {
                        wrong.push(format!("{action:?}: status {status}"));
                    }
                    Some(_) => {}
                }
                done.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..=pause_ms))).await;
            }
            wrong
        });
    }
    let mut record = match &arguments.record {
        Some(path) => {
            let mut file = std::fs::File::create(path)?;
            writeln!(file, "seconds,rss_mb,descriptors,actions")?;
            Some(file)
        }
        None => None,
    };
    let mut samples = Vec::new();
    while begun.elapsed() < time {
        tokio::time::sleep(SAMPLE_EVERY).await;
        let sample = server.sample()?;
        if let Some(file) = &mut record {
            let (seconds, actions) = ((sample.at - begun).as_secs_f64(), done.load(Ordering::Relaxed));
            writeln!(file, "{seconds:.1},{:.3},{},{actions}", sample.rss_mb, sample.fds)?;
        }
        samples.push(sample);
    }
    let mut wrong = Vec::new();
    while let Some(of_one) = clients.join_next().await {
        wrong.extend(of_one?);
    }
    let settled = settle(&server, idle.fds).await?;

    let warm = &samples[(samples.len() as f64 * WARM_UP) as usize..];
    let points: Vec<_> = warm
        .iter()
        .map(|sample| ((sample.at - begun).as_secs_f64() / 3600.0, sample.rss_mb))
        .collect();
    let mb_an_hour = slope(&points);
    let (first, last) = (third(warm, 0), third(warm, 2));
    println!(
        "did      {} requests of {} kinds in {} s from {} clients; {} went wrong",
        done.load(Ordering::Relaxed),
        actions.len(),
        arguments.seconds,
        arguments.clients,
        wrong.len()
    );
    println!(
        "memory   {:.1} MB at the start, {first:.1} MB after the warm-up, {last:.1} MB at the end: {mb_an_hour:+.2} MB an hour",
        idle.rss_mb
    );
    println!(
        "files    {} descriptors at the start, {} at most, {} at the end",
        idle.fds,
        samples.iter().map(|sample| sample.fds).max().unwrap_or(0),
        settled.fds
    );

    let mut failures = Vec::new();
    if let Some(first) = wrong.first() {
        failures.push(format!("{} requests went wrong, the first: {first}", wrong.len()));
    }
    if settled.fds > idle.fds {
        failures.push(format!("{} file descriptors are left open", settled.fds - idle.fds));
    }
    let long = time >= LONG_RUN;
    if long && timed && mb_an_hour > MB_AN_HOUR_MAX {
        failures.push(format!("memory grows by {mb_an_hour:.2} MB an hour"));
    }
    if !long && last - first > SHORT_RUN_MB_MAX {
        failures.push(format!("memory grew from {first:.1} to {last:.1} MB"));
    }
    let status = Action::Text.run(&server.address, &mut rng).await?;
    if !status.is_some_and(|status| Action::Text.statuses().contains(&status)) {
        failures.push(format!("after the soak a request got {status:?}"));
    }
    server.stop(Duration::from_secs(15)).await?;
    Ok(failures)
}

/// The mean memory of one third of the samples.
fn third(samples: &[Sample], number: usize) -> f64 {
    let length = samples.len().div_ceil(3).max(1);
    let part = samples.chunks(length).nth(number).unwrap_or(samples);
    part.iter().map(|sample| sample.rss_mb).sum::<f64>() / part.len() as f64
}

/// Waits until the connections of disconnected clients are closed, for ten seconds at most.
async fn settle(server: &Server, fds: usize) -> Result<Sample> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let sample = server.sample()?;
        if sample.fds <= fds || deadline < Instant::now() {
            return Ok(sample);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
