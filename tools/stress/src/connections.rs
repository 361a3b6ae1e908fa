//! Slow and numerous connections.
//!
//! Thousands of sockets send heads byte by byte. Then more sockets connect than the server has file descriptors, and
//! more than its connection limit allows.

use std::time::Duration;

use hyper::Method;
use hyper::body::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::Result;
use crate::client::Client;
use crate::numbers::percentile;
use crate::server::{Program, Server};

#[derive(clap::Args)]
pub struct Arguments {
    /// Sockets that send their heads byte by byte
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=20_000))]
    sockets: u64,

    /// Seconds for which other clients are timed, without those sockets and with them
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=18))]
    seconds: u64,

    /// Flags of the server, after --
    #[arg(last = true)]
    flags: Vec<String>,
}

/// The timeout for a head.
const HEAD_MAX: Duration = Duration::from_secs(30);
/// The interval between the bytes of a slow socket.
const BYTE_INTERVAL: Duration = Duration::from_millis(500);
/// Other clients, each with one request after the other.
const OTHERS: usize = 4;
/// The largest factor by which the slow sockets may increase the 99th percentile of the others.
const P99_GROWTH_MAX: f64 = 1.1;
/// The limit on descriptors of a server that is to reach it.
const FILES: u64 = 256;
/// Connections to a server with fewer slots.
const CROWD: usize = 400;
/// The largest CPU use, as a share of one core, while no connection can be accepted.
const CPU_SHARE_MAX: f64 = 0.1;
/// The longest time until a free slot is used again.
const RECOVERY_MAX: Duration = Duration::from_secs(1);

pub async fn run(program: &Program, arguments: &Arguments, timed: bool) -> Result<Vec<String>> {
    let mut failures = slow_heads(program, arguments, timed).await?;
    failures.extend(crowd(program, "descriptors", Some(FILES), &arguments.flags).await?);
    let places = [&arguments.flags[..], &["--max-connections".to_owned(), "64".to_owned()]].concat();
    failures.extend(crowd(program, "connections", None, &places).await?);
    Ok(failures)
}

async fn slow_heads(program: &Program, arguments: &Arguments, timed: bool) -> Result<Vec<String>> {
    let server = Server::start(program, &arguments.flags).await?;
    let time = Duration::from_secs(arguments.seconds);
    others(&server.address, time / 4).await?; // warm
    let mut alone = others(&server.address, time).await?;
    let mut slow = tokio::task::JoinSet::new();
    for _ in 0..arguments.sockets {
        let mut stream = TcpStream::connect(&server.address).await?;
        slow.spawn(async move { dribble(&mut stream).await });
    }
    let mut beside = others(&server.address, time).await?;
    let held = server.sample()?.fds;
    let (mut closed, mut open) = (Vec::new(), 0);
    while let Some(ended) = slow.join_next().await {
        match ended? {
            Some(took) => closed.push(took),
            None => open += 1,
        }
    }
    let (alone_p99, beside_p99) = (percentile(&mut alone, 99.0), percentile(&mut beside, 99.0));
    println!(
        "slow     {} sockets sent heads a byte each {BYTE_INTERVAL:?}: closed after {:.1?} to {:.1?}, {open} still open",
        arguments.sockets,
        percentile(&mut closed, 0.0),
        percentile(&mut closed, 100.0)
    );
    println!(
        "others   {} requests, 99 % within {alone_p99:.2?}; beside the slow ones {}, 99 % within {beside_p99:.2?}; {held} \
         descriptors",
        alone.len(),
        beside.len()
    );
    let mut failures = Vec::new();
    if open > 0 {
        failures.push(format!("{open} sockets were still open after {HEAD_MAX:?}"));
    }
    if timed && beside_p99.as_secs_f64() > P99_GROWTH_MAX * alone_p99.as_secs_f64() {
        failures.push("the others became more than 10 % slower at p99".to_owned());
    }
    server.stop(Duration::from_secs(15)).await?;
    Ok(failures)
}

/// Sends a head without an end; returns after how long the server closed the connection, or `None` if it did not in
/// time.
async fn dribble(stream: &mut TcpStream) -> Option<Duration> {
    let begun = Instant::now();
    let (mut reader, mut writer) = stream.split();
    let write = async {
        for byte in b"GET / HTTP/1.1\r\nx-slow: "
            .iter()
            .chain(std::iter::repeat_n(&b'x', 100_000))
        {
            if writer.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(BYTE_INTERVAL).await;
        }
    };
    let read = async {
        // The end of the stream or an error: the connection is closed.
        let _ = reader.read(&mut [0; 256]).await;
    };
    let closed = async {
        tokio::select! { () = write => {} () = read => {} }
    };
    tokio::time::timeout(HEAD_MAX, closed)
        .await
        .ok()
        .map(|()| begun.elapsed())
}

/// The time of each request of clients that send one request after the other.
async fn others(address: &str, time: Duration) -> Result<Vec<Duration>> {
    let begun = Instant::now();
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..OTHERS {
        let mut client = Client::connect(address).await?;
        clients.spawn(async move {
            let mut took = Vec::new();
            while begun.elapsed() < time {
                let asked_at = Instant::now();
                let text = Bytes::from_static(b"The capital of France is [MASK].");
                let answer = client.ask(Method::POST, "/", text).await?;
                if answer.status != 200 {
                    return Err(format!("status {} for a client that does nothing wrong", answer.status).into());
                }
                took.push(asked_at.elapsed());
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(took)
        });
    }
    let mut all = Vec::new();
    while let Some(of_one) = clients.join_next().await {
        all.extend(of_one??);
    }
    Ok(all)
}

/// More connections than the server has of `what`.
async fn crowd(program: &Program, what: &str, files: Option<u64>, flags: &[String]) -> Result<Vec<String>> {
    let limit = files.map(|files| format!("ulimit -n {files} && exec \"$0\" \"$@\""));
    let outer = limit.as_deref().map_or(vec![], |limit| vec!["sh", "-c", limit]);
    let server = Server::start_under(program, &outer, flags).await?;
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        crowd.push(TcpStream::connect(&server.address).await?);
    }
    let time = Duration::from_secs(3);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = server.cpu_time()?;
    tokio::time::sleep(time).await;
    let share = (server.cpu_time()? - before).as_secs_f64() / time.as_secs_f64();
    let held = server.sample()?.fds;
    drop(crowd);
    let freed_at = Instant::now();
    let mut client = Client::connect(&server.address).await?;
    let answer = client.ask(Method::GET, "/health", Bytes::new()).await?;
    let recovery = freed_at.elapsed();
    println!(
        "crowd    {CROWD} connections, too many for its {what}: {held} descriptors, {:.1} % of a core; {} after they \
         left within {recovery:.0?}",
        100.0 * share,
        answer.status
    );
    let mut failures = Vec::new();
    if share > CPU_SHARE_MAX {
        failures.push(format!("without {what} it spends {:.0} % of a core", 100.0 * share));
    }
    if answer.status != 200 || recovery > RECOVERY_MAX {
        failures.push(format!(
            "with {what} free again, health was {} after {recovery:.0?}",
            answer.status
        ));
    }
    server.stop(Duration::from_secs(15)).await?;
    Ok(failures)
}
