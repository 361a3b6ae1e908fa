//! Ten times the load that the server can carry, open loop.
//!
//! A closed loop measures what the server can carry. Then requests are sent at a fixed rate; the time of each counts
//! from the moment at which it was due, so that a slow server cannot slow its clients down.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::Method;
use hyper::body::Bytes;
use tokio::time::{Instant, MissedTickBehavior};

use crate::Result;
use crate::client::{Client, text};
use crate::numbers::percentile;
use crate::server::{Program, Sample, Server, cpu_time, machine_time};

#[derive(clap::Args)]
pub struct Arguments {
    /// Seconds of overload
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,

    /// The load as a multiple of what the server can carry
    #[arg(long, default_value_t = 10.0)]
    times: f64,

    /// Words of each text
    #[arg(long, default_value_t = 200)]
    words: usize,

    /// Flags of the server, after --
    #[arg(last = true)]
    flags: Vec<String>,
}

/// Connections of the closed loop: enough to fill a batch while another one runs.
const CLOSED_CONNECTIONS: usize = 128;
/// Connections of the open loop at most.
const OPEN_CONNECTIONS_MAX: usize = 4000;
/// The largest CPU use of other programs, in cores, for goodput to be checked. The threads of a batch wait for each
/// other, so a program that uses one core costs more than one.
const OTHERS_CORES_MAX: f64 = 0.15;
/// The interval at which groups of requests are sent.
const TICK: Duration = Duration::from_millis(1);
/// The interval of requests to `/health`.
const PROBE_INTERVAL: Duration = Duration::from_millis(50);
/// The interval at which memory and descriptors are sampled; a sample takes long with hundreds of descriptors.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// The answers of one phase.
#[derive(Default)]
struct Outcomes {
    served: Vec<Duration>,
    refused: Vec<Duration>,
    expired: usize,
    /// Answers that a correct server does not give.
    wrong: Vec<String>,
}

impl Outcomes {
    fn add(&mut self, answer: Result<crate::client::Answer>, took: Duration) {
        match answer {
            Ok(answer) => match (answer.status, answer.has_retry_after) {
                (200, _) => self.served.push(took),
                (503, true) => self.refused.push(took),
                (504, _) => self.expired += 1,
                (status, _) => self
                    .wrong
                    .push(format!("status {status}, which none of these requests deserves")),
            },
            Err(error) => self.wrong.push(error.to_string()),
        }
    }
}

pub async fn run(program: &Program, arguments: &Arguments, timed: bool) -> Result<Vec<String>> {
    let server = Arc::new(Server::start(program, &arguments.flags).await?);
    let text = text(arguments.words);
    let seconds = Duration::from_secs(arguments.seconds);

    closed_loop(&server.address, &text, seconds / 5).await?; // warm
    let spent = Spent::since(&server)?;
    let peak = closed_loop(&server.address, &text, seconds / 2).await?;
    let at_peak = spent.cores(&server)?;
    let rate = peak * arguments.times;
    println!(
        "carries  {peak:.0} texts of {} words a second, from {CLOSED_CONNECTIONS} connections",
        arguments.words
    );
    let watch = Watch::start(&server);
    let spent = Spent::since(&server)?;
    let (mut outcomes, goodput, unsent) = open_loop(&server.address, &text, rate, seconds).await;
    let overloaded = spent.cores(&server)?;
    let Watched {
        mut probes,
        failed_probes,
        samples,
    } = watch.stop().await;

    let refused_p99 = percentile(&mut outcomes.refused, 99.0);
    let live_p99 = percentile(&mut probes, 99.0);
    let half = samples.len() / 2;
    let rss_max = |samples: &[Sample]| samples.iter().map(|sample| sample.rss_mb).fold(0.0, f64::max);
    let (before, after) = (rss_max(&samples[..half]), rss_max(&samples[half..]));
    println!("sent     {rate:.0} a second for {} s, open loop", arguments.seconds);
    println!(
        "served   {goodput:.0} a second, {:.1} % of the peak",
        100.0 * goodput / peak
    );
    println!(
        "         50 % within {:.0?}, 99 % within {:.0?}",
        percentile(&mut outcomes.served, 50.0),
        percentile(&mut outcomes.served, 99.0)
    );
    println!(
        "refused  {} with 503 and Retry-After: 50 % within {:.1?}, 99 % within {refused_p99:.1?}",
        outcomes.refused.len(),
        percentile(&mut outcomes.refused, 50.0)
    );
    println!(
        "expired  {} with 504; {} wrong; {unsent} not sent for want of a connection",
        outcomes.expired,
        outcomes.wrong.len()
    );
    println!(
        "health   {} probes, 99 % within {live_p99:.1?}; {failed_probes} failed",
        probes.len()
    );
    println!("cpu      {at_peak} at the peak; {overloaded} under overload");
    println!(
        "memory   {before:.1} MB at most in the first half, {after:.1} MB in the second; {} descriptors at most",
        samples.iter().map(|sample| sample.fds).max().unwrap_or(0)
    );

    let mut failures = Vec::new();
    let mut must = |holds: bool, what: String| {
        if !holds {
            failures.push(what);
        }
    };
    must(
        outcomes.wrong.is_empty(),
        format!(
            "{} requests went wrong, the first with: {}",
            outcomes.wrong.len(),
            outcomes.wrong.first().map_or("", String::as_str)
        ),
    );
    must(
        !outcomes.refused.is_empty(),
        "nothing was refused, so this was no overload".to_owned(),
    );
    must(!outcomes.served.is_empty(), "nothing was served".to_owned());
    must(unsent == 0, format!("{unsent} requests found no connection"));
    must(failed_probes == 0, format!("{failed_probes} health probes failed"));
    must(
        after <= before * 1.05 + 4.0,
        format!("memory grew from {before:.1} to {after:.1} MB"),
    );
    if timed {
        let others = at_peak.others.max(overloaded.others);
        must(
            others <= OTHERS_CORES_MAX,
            format!("others took {others:.2} cores of this machine, so goodput is not checked"),
        );
        must(goodput >= 0.95 * peak, "goodput fell below 95 % of its peak".to_owned());
        must(
            refused_p99 <= Duration::from_millis(10),
            "refusing took more than 10 ms at p99".to_owned(),
        );
        must(
            live_p99 <= Duration::from_millis(50),
            "health took more than 50 ms at p99".to_owned(),
        );
    }
    // The next request must be answered at once.
    let mut client = Client::connect(&server.address).await?;
    let answer = client.ask(Method::POST, "/", text).await?;
    must(
        answer.status == 200,
        format!("after the overload a request got {}", answer.status),
    );
    drop(client);
    let server = Arc::into_inner(server).ok_or("the server is still in use by a watcher")?;
    server.stop(Duration::from_secs(15)).await?;
    Ok(failures)
}

/// CPU time of the server, of the clients and of the whole machine at one moment.
struct Spent {
    at: Instant,
    server: Duration,
    clients: Duration,
    machine: Duration,
}

/// Cores that each of them used on average.
struct Cores {
    server: f64,
    clients: f64,
    /// Other programs.
    others: f64,
}

impl std::fmt::Display for Cores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            server,
            clients,
            others,
        } = self;
        write!(f, "server {server:.2} cores, clients {clients:.2}, others {others:.2}")
    }
}

impl Spent {
    fn since(server: &Server) -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            server: server.cpu_time()?,
            clients: cpu_time("self")?,
            machine: machine_time()?,
        })
    }

    /// The cores used since this moment.
    fn cores(&self, server: &Server) -> Result<Cores> {
        let now = Self::since(server)?;
        let share = |now: Duration, before: Duration| (now - before).as_secs_f64() / self.at.elapsed().as_secs_f64();
        let (server, clients) = (share(now.server, self.server), share(now.clients, self.clients));
        Ok(Cores {
            server,
            clients,
            others: (share(now.machine, self.machine) - server - clients).max(0.0),
        })
    }
}

/// Texts per second when each client waits for its answer.
async fn closed_loop(address: &str, text: &Bytes, time: Duration) -> Result<f64> {
    let begun = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..CLOSED_CONNECTIONS {
        let mut client = Client::connect(address).await?;
        let text = text.clone();
        clients.push(tokio::spawn(async move {
            let mut served = 0_usize;
            while begun.elapsed() < time {
                let answer = client.ask(Method::POST, "/", text.clone()).await?;
                if answer.status != 200 {
                    return Err(format!("status {} while finding what it can carry", answer.status).into());
                }
                // Answers after the end do not count.
                served += usize::from(begun.elapsed() < time);
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(served)
        }));
    }
    let mut served = 0;
    for client in clients {
        served += client.await??;
    }
    Ok(served as f64 / time.as_secs_f64())
}

/// Returns the answers, the texts served per second under load, and the number of requests without a free connection.
async fn open_loop(address: &str, text: &Bytes, rate: f64, time: Duration) -> (Outcomes, f64, usize) {
    let outcomes = Arc::new(Mutex::new(Outcomes::default()));
    let free = Arc::new(Mutex::new(Vec::<Client>::new()));
    let served_in_time = Arc::new(AtomicUsize::new(0));
    let (mut sent, mut unsent, mut connections) = (0_usize, 0_usize, 0_usize);
    let mut requests = tokio::task::JoinSet::new();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    // Goodput is counted once the queue has had time to fill.
    let begun = Instant::now();
    while begun.elapsed() < time {
        ticks.tick().await;
        while (sent + unsent) as f64 <= begun.elapsed().as_secs_f64() * rate {
            let due = begun + Duration::from_secs_f64((sent + unsent) as f64 / rate);
            let client = free.lock().expect("not poisoned").pop();
            if client.is_none() && connections == OPEN_CONNECTIONS_MAX {
                unsent += 1;
                continue;
            }
            connections += usize::from(client.is_none());
            sent += 1;
            let (address, text) = (address.to_owned(), text.clone());
            let (outcomes, free, served_in_time) =
                (Arc::clone(&outcomes), Arc::clone(&free), Arc::clone(&served_in_time));
            requests.spawn(async move {
                let client = match client {
                    Some(client) => Ok(client),
                    None => Client::connect(&address).await,
                };
                let answer = match client {
                    Ok(mut client) => {
                        let answer = client.ask(Method::POST, "/", text).await;
                        if answer.is_ok() {
                            free.lock().expect("not poisoned").push(client);
                        }
                        answer
                    }
                    Err(error) => Err(error),
                };
                if answer.as_ref().is_ok_and(|answer| answer.status == 200) && begun.elapsed() < time {
                    served_in_time.fetch_add(1, Ordering::Relaxed);
                }
                outcomes.lock().expect("not poisoned").add(answer, due.elapsed());
            });
            while requests.try_join_next().is_some() {}
        }
    }
    while requests.join_next().await.is_some() {}
    let outcomes = std::mem::take(&mut *outcomes.lock().expect("not poisoned"));
    let goodput = served_in_time.load(Ordering::Relaxed) as f64 / time.as_secs_f64();
    (outcomes, goodput, unsent)
}

/// Samples the process and requests its health under load.
struct Watch {
    stop: tokio::sync::oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Watched>,
}

#[derive(Default)]
struct Watched {
    probes: Vec<Duration>,
    failed_probes: usize,
    samples: Vec<Sample>,
}

impl Watch {
    fn start(server: &Arc<Server>) -> Self {
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let server = Arc::clone(server);
        let task = tokio::spawn(async move {
            let mut watched = Watched::default();
            let mut client = Client::connect(&server.address).await.ok();
            while stopped.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty) {
                let begun = Instant::now();
                let answer = match client.as_mut() {
                    Some(client) => client.ask(Method::GET, "/health", Bytes::new()).await,
                    None => Err("no connection".into()),
                };
                match answer {
                    Ok(answer) if answer.status == 200 => watched.probes.push(begun.elapsed()),
                    _ => {
                        watched.failed_probes += 1;
                        client = Client::connect(&server.address).await.ok();
                    }
                }
                let due = |last: &Sample| last.at.elapsed() >= SAMPLE_EVERY;
                if watched.samples.last().is_none_or(due) {
                    watched.samples.extend(server.sample());
                }
                tokio::time::sleep(PROBE_INTERVAL).await;
            }
            watched
        });
        Self { stop, task }
    }

    async fn stop(self) -> Watched {
        let _ = self.stop.send(());
        self.task.await.expect("the watch does not panic")
    }
}
