//! Random lengths, errors, disconnects and slow readers, for as long as wanted.
//!
//! Requests are written by hand here, because most of them are broken on purpose.

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
use crate::client::patiently;
use crate::numbers::slope;
use crate::server::{Program, Sample, Server};

#[derive(clap::Args)]
pub struct Arguments {
    /// How long it lasts
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(5..=86_400))]
    seconds: u64,

    /// Clients at once
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=1000))]
    clients: u64,

    /// How long a client rests after each deed, at most; for a soak beside other work
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,

    /// Where to write memory and descriptors over time, as CSV
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,

    /// Only these deeds, to look closer at one [default: all]
    #[arg(long, value_name = "DEED", value_delimiter = ',')]
    only: Vec<Deed>,

    /// Where the dice begin
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Flags of the server, after --
    #[arg(last = true)]
    flags: Vec<String>,
}

/// How much of the run counts as warm-up: buffers and threads come once.
const WARM_UP: f64 = 0.3;
const SAMPLE_EVERY: Duration = Duration::from_millis(500);
/// Growth of memory that an hour may show after warm-up.
const MB_AN_HOUR_MAX: f64 = 1.0;
/// A slope over less than this says little of an hour; a short run may grow by this much altogether.
const SHORT_RUN_MB_MAX: f64 = 24.0;
const LONG_RUN: Duration = Duration::from_secs(1800);

/// What one client does once.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Deed {
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

const DEEDS: [Deed; 10] = [
    Deed::Text,
    Deed::List,
    Deed::NoMask,
    Deed::NotJson,
    Deed::FarTooLong,
    Deed::LeaveBeforeTheAnswer,
    Deed::LeaveWithinTheBody,
    Deed::ReadSlowly,
    Deed::Health,
    Deed::Nowhere,
];

impl Deed {
    /// The statuses that a correct server may answer with; none where nobody stays to read.
    fn statuses(self) -> &'static [u16] {
        match self {
            // A long text may be longer than the model takes.
            Self::Text | Self::List | Self::ReadSlowly => &[200, 422, 503, 504],
            Self::NoMask | Self::NotJson => &[400, 422, 503],
            Self::FarTooLong => &[422, 503],
            Self::Health => &[200],
            Self::Nowhere => &[404],
            Self::LeaveBeforeTheAnswer | Self::LeaveWithinTheBody => &[],
        }
    }

    fn request(self, dice: &mut StdRng) -> Vec<u8> {
        let text = |dice: &mut StdRng| "word ".repeat(dice.random_range(1..400)) + "[MASK]";
        let (method, path, content_type, body) = match self {
            Self::Text | Self::ReadSlowly | Self::LeaveBeforeTheAnswer | Self::LeaveWithinTheBody => {
                ("POST", "/", "text/plain", text(dice))
            }
            Self::List => {
                let texts: Vec<String> = (0..dice.random_range(1..32)).map(|_| text(dice)).collect();
                (
                    "POST",
                    "/v1/fill-mask",
                    "application/json",
                    serde_json::json!({ "inputs": texts }).to_string(),
                )
            }
            Self::NoMask => ("POST", "/", "text/plain", "word ".repeat(dice.random_range(1..400))),
            Self::NotJson => (
                "POST",
                "/",
                "application/json",
                "[".repeat(dice.random_range(1..10_000)),
            ),
            Self::FarTooLong => (
                "POST",
                "/",
                "text/plain",
                "[MASK] ".repeat(dice.random_range(1000..50_000)),
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

    /// Does it; gives the status, or `None` if nobody stayed to read it.
    async fn run(self, address: &str, dice: &mut StdRng) -> Result<Option<u16>> {
        let request = self.request(dice);
        let mut stream = TcpStream::connect(address).await?;
        match self {
            Self::LeaveWithinTheBody => {
                let part = dice.random_range(1..request.len());
                stream.write_all(&request[..part]).await?;
                tokio::time::sleep(Duration::from_millis(dice.random_range(0..50))).await;
                return Ok(None);
            }
            Self::LeaveBeforeTheAnswer => {
                stream.write_all(&request).await?;
                tokio::time::sleep(Duration::from_millis(dice.random_range(0..50))).await;
                return Ok(None);
            }
            // A server that refuses may do so before it has read all of it.
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
    // One of each first, one after the other: what they need is there from then on.
    let mut dice = StdRng::seed_from_u64(arguments.seed);
    for deed in DEEDS {
        deed.run(&server.address, &mut dice).await?;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let idle = server.sample()?;

    let begun = std::time::Instant::now();
    let time = Duration::from_secs(arguments.seconds);
    let done = Arc::new(AtomicUsize::new(0));
    let mut clients = tokio::task::JoinSet::new();
    let pause_ms = arguments.pause_ms;
    let deeds: Arc<[Deed]> = match &arguments.only[..] {
        [] => DEEDS.into(),
        only => only.into(),
    };
    for number in 0..arguments.clients {
        let (address, done, deeds) = (server.address.clone(), Arc::clone(&done), Arc::clone(&deeds));
        let mut dice = StdRng::seed_from_u64(arguments.seed.wrapping_add(1 + number));
        clients.spawn(async move {
            let mut wrong = Vec::new();
            while begun.elapsed() < time {
                let deed = deeds[dice.random_range(0..deeds.len())];
                match patiently(deed.run(&address, &mut dice)).await {
                    None => wrong.push(format!("{deed:?}: no answer, the server hangs")),
                    // A server that refuses a long body early may reset the connection under it.
                    Some(Err(error)) if !matches!(deed, Deed::FarTooLong) => wrong.push(format!("{deed:?}: {error}")),
                    Some(Ok(Some(status))) if !deed.statuses().contains(&status) => {
                        wrong.push(format!("{deed:?}: status {status}"));
                    }
                    Some(_) => {}
                }
                done.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(dice.random_range(0..=pause_ms))).await;
            }
            wrong
        });
    }
    let mut record = match &arguments.record {
        Some(path) => {
            let mut file = std::fs::File::create(path)?;
            writeln!(file, "seconds,rss_mb,descriptors,deeds")?;
            Some(file)
        }
        None => None,
    };
    let mut samples = Vec::new();
    while begun.elapsed() < time {
        tokio::time::sleep(SAMPLE_EVERY).await;
        let sample = server.sample()?;
        if let Some(file) = &mut record {
            let (seconds, deeds) = ((sample.at - begun).as_secs_f64(), done.load(Ordering::Relaxed));
            writeln!(file, "{seconds:.1},{:.3},{},{deeds}", sample.rss_mb, sample.fds)?;
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
        deeds.len(),
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
    let status = Deed::Text.run(&server.address, &mut dice).await?;
    if !status.is_some_and(|status| Deed::Text.statuses().contains(&status)) {
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

/// Waits, for ten seconds at most, until the connections of clients that left are closed.
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
