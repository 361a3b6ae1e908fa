//! Clients with deadlines shorter than the queue, and clients that disconnect before their answer.

use std::time::Duration;

use hyper::Method;
use hyper::body::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use crate::Result;
use crate::client::{Client, text};
use crate::numbers::percentile;
use crate::server::{Program, Server};

#[derive(clap::Args)]
pub struct Arguments {
    /// Seconds of each of the two phases
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,

    /// Clients at once, each with one request after the other
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u64).range(2..=512))]
    clients: u64,

    /// Flags of the server, after --
    #[arg(last = true)]
    flags: Vec<String>,
}

/// Words of each text: enough that a full queue takes longer than the deadline.
const WORDS: usize = 200;
/// The timeout of the clients with a deadline.
const TIMEOUT: Duration = Duration::from_millis(250);
/// The largest delay of a 504 after the deadline.
const LATENESS_MAX: Duration = Duration::from_millis(20);
/// The longest time, at random, after which a client disconnects.
const STAY_MAX: Duration = Duration::from_millis(600);
/// The longest time until the queue is empty after all clients disconnected.
const SETTLING_MAX: Duration = Duration::from_secs(3);

pub async fn run(program: &Program, arguments: &Arguments, timed: bool) -> Result<Vec<String>> {
    let server = Server::start(program, &arguments.flags).await?;
    let mut failures = deadlines(&server, arguments, timed).await?;
    failures.extend(departures(&server, arguments).await?);
    server.stop(Duration::from_secs(15)).await?;
    Ok(failures)
}

async fn deadlines(server: &Server, arguments: &Arguments, timed: bool) -> Result<Vec<String>> {
    let (begun, time) = (Instant::now(), Duration::from_secs(arguments.seconds));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..arguments.clients {
        let mut client = Client::connect(&server.address).await?;
        clients.spawn(async move {
            let (mut late, mut served) = (Vec::new(), 0_usize);
            while begun.elapsed() < time {
                let asked_at = Instant::now();
                match client.ask_within(TIMEOUT, text(WORDS)).await?.status {
                    504 => late.push(asked_at.elapsed().saturating_sub(TIMEOUT)),
                    200 => served += 1,
                    status => return Err(format!("status {status}, neither an answer nor too late").into()),
                }
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((late, served))
        });
    }
    let (mut late, mut served) = (Vec::new(), 0);
    while let Some(of_one) = clients.join_next().await {
        let (of_one, in_time) = of_one??;
        late.extend(of_one);
        served += in_time;
    }
    let (p50, p99) = (percentile(&mut late, 50.0), percentile(&mut late, 99.0));
    println!(
        "deadline {} requests got 504 after {TIMEOUT:?} and, 50 % within {p50:.1?}, 99 % within {p99:.1?} more; {served} \
         were served in time",
        late.len()
    );
    let mut failures = Vec::new();
    if late.is_empty() {
        failures.push("no deadline passed, so this was no test".to_owned());
    }
    if timed && p99 > LATENESS_MAX {
        failures.push(format!("504 came more than {LATENESS_MAX:?} after the deadline at p99"));
    }
    failures.extend(settled(server, "the deadlines").await?);
    Ok(failures)
}

async fn departures(server: &Server, arguments: &Arguments) -> Result<Vec<String>> {
    let (begun, time) = (Instant::now(), Duration::from_secs(arguments.seconds));
    let before = metric(server, "cloze_abandoned_texts_total").await?;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..arguments.clients {
        let (address, mut rng) = (server.address.clone(), StdRng::seed_from_u64(number));
        clients.spawn(async move {
            let (mut left, mut wrong) = (0_usize, 0_usize);
            while begun.elapsed() < time {
                let mut client = Client::connect(&address).await?;
                let stay = rng.random_range(Duration::ZERO..STAY_MAX);
                let asked = client.ask(Method::POST, "/", text(WORDS));
                match rng.random_bool(0.5) {
                    // Drops the connection.
                    true => match tokio::time::timeout(stay, asked).await {
                        Err(_) => left += 1,
                        Ok(answer) => wrong += usize::from(answer?.status != 200),
                    },
                    false => wrong += usize::from(asked.await?.status != 200),
                }
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((left, wrong))
        });
    }
    let (mut left, mut wrong) = (0, 0);
    while let Some(of_one) = clients.join_next().await {
        let of_one = of_one??;
        left += of_one.0;
        wrong += of_one.1;
    }
    let mut failures = Vec::from_iter(settled(server, "the departures").await?);
    let skipped = metric(server, "cloze_abandoned_texts_total").await? - before;
    println!("left     {left} clients without their answers; {skipped} texts were skipped; {wrong} others got none");
    if wrong > 0 {
        failures.push(format!("{wrong} clients that stayed got no answer"));
    }
    if left == 0 || skipped == 0.0 {
        failures.push("no text was dropped".to_owned());
    }
    Ok(failures)
}

/// Waits until the queue is empty; returns a sentence if it is not empty after the limit.
async fn settled(server: &Server, after: &str) -> Result<Option<String>> {
    let begun = Instant::now();
    loop {
        let texts = metric(server, "cloze_queue_texts").await?;
        let tokens = metric(server, "cloze_queue_tokens").await?;
        if texts == 0.0 && tokens == 0.0 {
            return Ok(None);
        }
        if begun.elapsed() > SETTLING_MAX {
            return Ok(Some(format!("{SETTLING_MAX:?} after {after}, {texts} texts wait")));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The value of a series without labels.
async fn metric(server: &Server, name: &str) -> Result<f64> {
    let mut client = Client::connect(&server.address).await?;
    let answer = client.ask(Method::GET, "/metrics", Bytes::new()).await?;
    let text = String::from_utf8(answer.body.to_vec())?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.ok_or_else(|| format!("{name} is not in /metrics"))?.parse()?)
}
