//! The server under test.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::Result;

/// Milliseconds in a clock tick of Linux.
const TICK_MS: u64 = 10;

/// The binary and its cores.
#[derive(clap::Args)]
pub struct Program {
    /// The binary under test
    #[arg(long = "server", value_name = "FILE")]
    binary: PathBuf,

    /// Cores for the server, in the format of taskset; run this tool on the others (taskset -c 0 cloze-stress …)
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
    /// Starts the server on a free port of loopback and waits until it listens.
    pub async fn start(program: &Program, arguments: &[String]) -> Result<Self> {
        Self::start_under(program, &[], arguments).await
    }

    /// The same, through another command that takes the server as its last arguments.
    pub async fn start_under(program: &Program, outer: &[&str], arguments: &[String]) -> Result<Self> {
        let cores = program.server_cores.as_deref();
        let mut words: Vec<&OsStr> = cores.map_or(vec![], |cores| ["taskset", "-c", cores].map(OsStr::new).to_vec());
        words.extend(outer.iter().map(OsStr::new));
        words.push(program.binary.as_os_str());
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        if !arguments.iter().any(|argument| argument == "--log") {
            command.args(["--log", "error"]);
        }
        let mut child = command
            .args(["--host", "127.0.0.1", "--port", "0"])
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
                // The pipe is read, so that it does not block the server.
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

    /// CPU time since the start, over all cores.
    pub fn cpu_time(&self) -> Result<Duration> {
        cpu_time(&self.child.id().ok_or("the server has ended")?.to_string())
    }

    /// Sends SIGTERM; an error if the process does not end with exit code 0 within `limit`.
    pub async fn stop(mut self, limit: Duration) -> Result<()> {
        let pid = self.child.id().ok_or("the server ended before the signal")?;
        Command::new("kill").arg(pid.to_string()).status().await?;
        match tokio::time::timeout(limit, self.child.wait()).await {
            Ok(status) if status.as_ref().is_ok_and(|status| status.success()) => Ok(()),
            Ok(status) => Err(format!("the server ended with {status:?}").into()),
            Err(_) => Err(format!("the server did not end within {limit:?}").into()),
        }
    }
}

/// Resources of the process at one moment.
#[derive(Clone, Copy)]
pub struct Sample {
    pub at: Instant,
    /// Megabytes of 1,000,000 bytes.
    pub rss_mb: f64,
    pub fds: usize,
}

/// CPU time of a process (`self`: this one) since its start, over all cores.
pub fn cpu_time(pid: &str) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Times in user and in kernel mode are the 14th and 15th field; the second, a name in parentheses, may hold
    // spaces.
    let (_, fields) = stat.rsplit_once(") ").ok_or("the system gives no times")?;
    let ticks: Vec<u64> = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(str::parse)
        .collect::<std::result::Result<_, _>>()?;
    Ok(Duration::from_millis(ticks.iter().sum::<u64>() * TICK_MS))
}

/// CPU time of all processes of this machine since its start, over all cores.
pub fn machine_time() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().ok_or("the system gives no times")?;
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
