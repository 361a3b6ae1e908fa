//! One short text after the other beside clients that send the most expensive requests there are, that leave, that hold
//! half a head or half a body, or that do not read their answers; and beside a log that is not read.

use std::time::Duration;

use hyper::Method;
use hyper::body::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::Result;
use crate::client::Client;
use crate::numbers::percentile;
use crate::server::{Program, Server};

#[derive(clap::Args)]
pub struct Arguments {
    /// Seconds beside each kind of expensive request
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,

    /// Clients that send the expensive requests
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=64))]
    clients: u64,

    /// Half-sent bodies of a megabyte
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=4000))]
    bodies: u64,

    /// Connections with half a head
    #[arg(long, default_value_t = 4200, value_parser = clap::value_parser!(u64).range(1..=16000))]
    heads: u64,

    /// Flags of the server, after --
    #[arg(last = true)]
    flags: Vec<String>,
}

/// Upper limit on the 99th percentile of a short text beside expensive requests.
const P99_MAX: Duration = Duration::from_millis(500);
/// A short text beside clients that take all places or all slots and then wait: the time after which a slow request
/// loses its place, and a margin.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// After the last client has left, its work ends within this time.
const STOPPING_MAX: Duration = Duration::from_millis(50);
/// Memory beyond that before, while bodies are held and after they were dropped.
const HELD_MB_MAX: f64 = 300.0;
const KEPT_MB_MAX: f64 = 100.0;
/// Time for freed memory to go back to the system.
const SETTLING: Duration = Duration::from_secs(2);

pub async fn run(program: &Program, arguments: &Arguments, timed: bool) -> Result<Vec<String>> {
    let server = Server::start(program, &arguments.flags).await?;
    let mut failures = Vec::new();
    for (name, body) in expensive() {
        failures.extend(beside(&server, name, &body, arguments, timed).await?);
    }
    failures.extend(departures(&server, timed).await?);
    failures.extend(half_bodies(&server, arguments).await?);
    failures.extend(unread_answers(&server).await?);
    failures.extend(half_heads(&server, arguments).await?);
    server.stop(Duration::from_secs(15)).await?;
    failures.extend(stalled_log(program, &arguments.flags).await?);
    Ok(failures)
}

/// Standard error is a pipe that is not read: it takes 64 KiB, some hundred log lines.
async fn stalled_log(program: &Program, flags: &[String]) -> Result<Vec<String>> {
    const REQUESTS: usize = 800;
    let unread = ["bash", "-c", r#"exec "$0" "$@" 2> >(exec sleep 60)"#];
    let flags = [flags, &["--log".to_owned(), "info".to_owned()]].concat();
    let server = Server::start_under(program, &unread, &flags).await?;
    let mut client = Client::connect(&server.address).await?;
    let begun = Instant::now();
    let ask = async {
        for _ in 0..REQUESTS {
            let answer = client.ask(Method::POST, "/", Bytes::from_static(b"a [MASK]")).await?;
            if answer.status != 200 {
                return Err(format!("status {}", answer.status).into());
            }
        }
        Ok(())
    };
    let asked: Result<()> = match tokio::time::timeout(Duration::from_secs(120), ask).await {
        Ok(asked) => asked,
        Err(_) => Err("the server hangs".into()),
    };
    println!(
        "log      {REQUESTS} texts beside a log that is not read took {:.1?}",
        begun.elapsed()
    );
    server.stop(Duration::from_secs(15)).await?;
    Ok(match asked {
        Ok(()) => Vec::new(),
        Err(error) => vec![format!("beside a log that is not read: {error}")],
    })
}

/// The most expensive requests within the limits, and some beyond.
fn expensive() -> Vec<(&'static str, Bytes)> {
    // The most look-ups of WordPiece: each letter matches by itself, the last character never does.
    let word = format!("{}\u{2603}", "x".repeat(98));
    let line = format!("[MASK] {}", format!("{word} ").repeat(19));
    let list = |texts| format!("{{\"inputs\": [{}]}}", vec![format!("\"{line}\""); texts].join(","));
    let targets: Vec<String> = (0..9_000).map(|i| format!("\"{i:05}{}\"", "x".repeat(90))).collect();
    [
        ("60 masks, 833 predictions each", masks()),
        ("250 masks", format!("{{\"inputs\": \"{}\"}}", "[MASK] ".repeat(250))),
        (
            "a megabyte of long words",
            format!("{{\"inputs\": \"[MASK] {}\"}}", format!("{word} ").repeat(10_000)),
        ),
        ("500 texts of long words", list(500)),
        ("95 texts of long words", list(95)),
        (
            "9,000 long targets",
            format!(
                "{{\"inputs\": \"a [MASK]\", \"parameters\": {{\"targets\": [{}]}}}}",
                targets.join(",")
            ),
        ),
        (
            "73 MB of answer",
            format!(
                "{{\"inputs\": \"{}{}\", \"parameters\": {{\"top_k\": 822}}}}",
                "telecommunications ".repeat(235),
                "[MASK] ".repeat(19)
            ),
        ),
    ]
    .map(|(name, body)| (name, Bytes::from(body)))
    .into()
}

/// Half a kilobyte for an answer of 25 MB.
fn masks() -> String {
    format!(
        "{{\"inputs\": \"{}\", \"parameters\": {{\"top_k\": 833}}}}",
        "[MASK] ".repeat(60)
    )
}

/// Short texts beside clients that send `body` over and over.
async fn beside(server: &Server, name: &str, body: &Bytes, arguments: &Arguments, timed: bool) -> Result<Vec<String>> {
    let mut others = JoinSet::new();
    for _ in 0..arguments.clients {
        let (mut client, body) = (Client::connect(&server.address).await?, body.clone());
        others.spawn(async move {
            // Answers and refusals alike.
            while client.ask(Method::POST, "/v1/fill-mask", body.clone()).await.is_ok() {}
        });
    }
    sleep(Duration::from_millis(300)).await;
    let mut client = Client::connect(&server.address).await?;
    let (begun, mut took, mut refused) = (Instant::now(), Vec::new(), 0);
    while begun.elapsed() < Duration::from_secs(arguments.seconds) {
        let asked_at = Instant::now();
        let answer = client.ask(Method::POST, "/", Bytes::from_static(b"a [MASK]")).await?;
        refused += usize::from(answer.status != 200);
        took.push(asked_at.elapsed());
        sleep(Duration::from_millis(10)).await;
    }
    let broken = others.try_join_next().is_some();
    others.shutdown().await;
    let (p50, p99) = (percentile(&mut took, 50.0), percentile(&mut took, 99.0));
    println!(
        "beside   {name}: {} short texts, 50 % within {p50:.1?}, 99 % within {p99:.1?}",
        took.len()
    );
    let mut failures = Vec::new();
    if refused > 0 {
        failures.push(format!("{refused} short texts beside {name} were not answered"));
    }
    if broken {
        failures.push(format!("a client that sent {name} got no answer"));
    }
    if timed && p99 > P99_MAX {
        failures.push(format!("short texts beside {name} took more than {P99_MAX:?} at p99"));
    }
    Ok(failures)
}

/// Ten expensive requests whose clients leave, beside ten whose clients stay.
async fn departures(server: &Server, timed: bool) -> Result<Vec<String>> {
    const REQUESTS: usize = 10;
    let body = expensive().swap_remove(4).1;
    let before = server.cpu_time()?;
    for _ in 0..REQUESTS {
        Client::connect(&server.address)
            .await?
            .ask(Method::POST, "/", body.clone())
            .await?;
    }
    let stay = server.cpu_time()? - before;
    let before = server.cpu_time()?;
    let mut clients = JoinSet::new();
    for _ in 0..REQUESTS {
        let (mut client, body) = (Client::connect(&server.address).await?, body.clone());
        clients.spawn(async move {
            let asked = client.ask(Method::POST, "/", body);
            let _ = tokio::time::timeout(Duration::from_millis(100), asked).await;
        });
    }
    clients.join_all().await;
    sleep(STOPPING_MAX).await;
    let left = server.cpu_time()? - before;
    sleep(Duration::from_secs(1)).await;
    let after = server.cpu_time()? - before - left;
    println!(
        "left     {REQUESTS} requests took {stay:.2?} of processor time with clients that stay, {left:.2?} with clients that \
         leave, and {after:.2?} in the second after"
    );
    let mut failures = Vec::new();
    if left > stay {
        failures.push("clients that leave cost more than clients that stay".to_owned());
    }
    if timed && after > Duration::from_millis(100) {
        failures.push(format!("work went on {STOPPING_MAX:?} after its clients had left"));
    }
    Ok(failures)
}

/// Bodies of which the last byte never comes.
async fn half_bodies(server: &Server, arguments: &Arguments) -> Result<Vec<String>> {
    let before = server.sample()?.rss_mb;
    let part = vec![b'x'; (1 << 20) - 1];
    let mut streams = Vec::new();
    for _ in 0..arguments.bodies {
        let mut stream = TcpStream::connect(&server.address).await?;
        let head = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", 1 << 20);
        // Fails if the server refuses the body.
        let sent = async {
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&part).await
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), sent).await;
        streams.push(stream);
    }
    let held = server.sample()?.rss_mb - before;
    let answered = short_text(server, "half-sent bodies").await?;
    drop(streams);
    sleep(SETTLING).await;
    let kept = server.sample()?.rss_mb - before;
    println!(
        "bodies   {} half-sent megabytes took {held:.0} MB, {kept:.0} MB stayed",
        arguments.bodies
    );
    let mut failures: Vec<_> = answered.into_iter().collect();
    if held > HELD_MB_MAX {
        failures.push(format!("half-sent bodies took more than {HELD_MB_MAX} MB"));
    }
    if kept > KEPT_MB_MAX {
        failures.push(format!("more than {KEPT_MB_MAX} MB stayed after half-sent bodies"));
    }
    Ok(failures)
}

/// Answers of 25 MB that are not read.
async fn unread_answers(server: &Server) -> Result<Vec<String>> {
    let before = server.sample()?.rss_mb;
    let mut streams = Vec::new();
    for _ in 0..12 {
        let mut stream = TcpStream::connect(&server.address).await?;
        let body = masks();
        let head = format!(
            "POST / HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).await?;
        streams.push(stream);
    }
    // Each has begun.
    for stream in &mut streams {
        stream.read_exact(&mut [0; 16]).await?;
    }
    sleep(SETTLING).await;
    let held = server.sample()?.rss_mb - before;
    let mut failures: Vec<_> = short_text(server, "unread answers").await?.into_iter().collect();
    drop(streams);
    println!("answers  12 unread answers of 25 MB took {held:.0} MB");
    if held > KEPT_MB_MAX {
        failures.push(format!("unread answers took more than {KEPT_MB_MAX} MB"));
    }
    Ok(failures)
}

/// More connections than there are slots, each with half a head.
async fn half_heads(server: &Server, arguments: &Arguments) -> Result<Vec<String>> {
    let mut streams = Vec::new();
    for _ in 0..arguments.heads {
        let connected = tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(&server.address)).await;
        // The backlog is full as well, or this process has no more descriptors.
        let Ok(Ok(mut stream)) = connected else { break };
        let _ = stream.write_all(b"POST / HTTP/1.1\r\nhost: ").await;
        streams.push(stream);
    }
    // Leaves a descriptor to the short text.
    streams.pop();
    let failure = short_text(server, "half heads").await?;
    Ok(failure.into_iter().collect())
}

/// Sends a short text on a connection of its own; the failure if it is not answered in time.
async fn short_text(server: &Server, others: &str) -> Result<Option<String>> {
    let asked_at = Instant::now();
    let ask = async {
        let mut client = Client::connect(&server.address).await?;
        client.ask(Method::POST, "/", Bytes::from_static(b"a [MASK]")).await
    };
    let answer = tokio::time::timeout(WAIT_MAX, ask).await;
    println!("beside   {others}: a short text took {:.1?}", asked_at.elapsed());
    Ok(match answer {
        Ok(answer) if answer.as_ref().is_ok_and(|answer| answer.status == 200) => None,
        Ok(_) => Some(format!("a short text beside {others} was refused")),
        Err(_) => Some(format!(
            "a short text beside {others} was not answered within {WAIT_MAX:?}"
        )),
    })
}
