//! The process under test.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::Result;

/// What Linux counts processor time in, on every machine that it runs on today.
const TICK_MS: u64 = 10;

/// What is put under test, and where it runs.
#[derive(clap::Args)]
pub struct Program {
    /// The binary under test
    #[arg(long = "server", value_name = "FILE")]
    binary: PathBuf,

    /// Cores that the server alone may use, as taskset takes them; run this tool on the others (taskset -c 0 cloze-stress …)
    #[arg(long, global = true, value_name = "LIST")]
    server_cores: Option<String>,
}

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    /// `host:port`.
    pub address: String,
}

impl Server {
    /// Starts it on a free port of loopback and waits until it listens.
    pub async fn start(program: &Program, arguments: &[String]) -> Result<Self> {
        Self::start_under(program, &[], arguments).await
    }

    /// The same, as the last argument of another command.
    pub async fn start_under(program: &Program, outer: &[&str], arguments: &[String]) -> Result<Self> {
        let cores = program.server_cores.as_deref();
        let mut words: Vec<&OsStr> = cores.map_or(vec![], |cores| ["taskset", "-c", cores].map(OsStr::new).to_vec());
        words.extend(outer.iter().map(OsStr::new));
        words.push(program.binary.as_os_str());
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        let mut child = command
            .args(["--host", "127.0.0.1", "--port", "0", "--log", "error"])
            .args(arguments)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| format!("{} cannot be started: {e}", program.binary.display()))?;
        let stdout = child.stdout.take().ok_or("standard output is piped")?;
        let mut lines = BufReader::new(stdout).lines();
        while let Some(line) = lines.next_line().await? {
            if let Some((_, address)) = line.split_once("address  http://") {
                let address = address.trim().to_owned();
                // Read on, so that the server never waits for us.
                tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                return Ok(Self { child, address });
            }
        }
        Err("the server ended before it listened".into())
    }

    /// Resident memory in bytes and open file descriptors.
    pub fn sample(&self) -> Result<Sample> {
        let pid = self.child.id().ok_or("the server has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: f64 = line
            .and_then(|line| line.trim().strip_suffix("kB"))
            .and_then(|kib| kib.trim().parse().ok())
            .ok_or("the system does not say how much memory the server uses")?;
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        Ok(Sample {
            at: Instant::now(),
            rss_mb: kib * 1024.0 / 1e6,
            fds,
        })
    }

    /// Processor time that it has taken since it started, on all cores together.
    pub fn cpu_time(&self) -> Result<Duration> {
        cpu_time(&self.child.id().ok_or("the server has ended")?.to_string())
    }

    /// SIGTERM; an error when it does not end well within `limit`.
    pub async fn stop(mut self, limit: Duration) -> Result<()> {
        let pid = self.child.id().ok_or("the server ended before it was told to")?;
        Command::new("kill").arg(pid.to_string()).status().await?;
        match tokio::time::timeout(limit, self.child.wait()).await {
            Ok(status) if status.as_ref().is_ok_and(|status| status.success()) => Ok(()),
            Ok(status) => Err(format!("the server ended with {status:?}").into()),
            Err(_) => Err(format!("the server did not end within {limit:?}").into()),
        }
    }
}

/// What the process held at one moment.
#[derive(Clone, Copy)]
pub struct Sample {
    pub at: Instant,
    /// Megabytes of 1,000,000 bytes.
    pub rss_mb: f64,
    pub fds: usize,
}

/// Processor time that a process, or this one as `self`, has taken since it started, on all cores together.
pub fn cpu_time(pid: &str) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Times in user and in kernel mode are the 14th and 15th field; the second, a name in parentheses, may hold
    // spaces.
    let (_, fields) = stat.rsplit_once(") ").ok_or("the system tells no times")?;
    let ticks: Vec<u64> = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(str::parse)
        .collect::<std::result::Result<_, _>>()?;
    Ok(Duration::from_millis(ticks.iter().sum::<u64>() * TICK_MS))
}

/// Processor time that everything on this machine has taken since it started, on all cores together.
pub fn machine_time() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().ok_or("the system tells no times")?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .take(8)
        .map(str::parse)
        .collect::<std::result::Result<_, _>>()?;
    // The fourth and fifth are idle time.
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    Ok(Duration::from_millis((ticks.iter().sum::<u64>() - idle) * TICK_MS))
}
