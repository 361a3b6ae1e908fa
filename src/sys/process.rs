//! Resources that this process uses, under the names that Prometheus' own clients give them. Linux only; elsewhere only
//! the limits are known.

/// Resources of the process at one moment; `None` if the system does not report it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessStats {
    /// User and system time.
    pub cpu_seconds: Option<f64>,
    pub virtual_bytes: Option<u64>,
    /// In seconds since 1970.
    pub start_time_seconds: Option<f64>,
    pub threads: Option<u64>,
    pub open_descriptors: Option<u64>,
    /// `None` also if there is no limit.
    pub descriptors_max: Option<u64>,
}

/// Clock ticks per second in `/proc`: the same on every architecture that Rust supports on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

impl ProcessStats {
    pub fn read() -> Self {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The second field is the program's name in parentheses, with any characters.
        let fields: Vec<&str> = match stat.rsplit_once(") ") {
            Some((_, rest)) => rest.split_whitespace().collect(),
            None => Vec::new(),
        };
        // Numbered from 1, as proc(5) does.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let seconds = |number: usize| Some(field(number)? as f64 / TICKS_PER_SECOND);
        Self {
            cpu_seconds: seconds(14).zip(seconds(15)).map(|(user, system)| user + system),
            virtual_bytes: field(23),
            start_time_seconds: seconds(22).zip(boot_time()).map(|(start, boot)| boot + start),
            threads: field(20),
            // Without the one that reads the folder.
            open_descriptors: std::fs::read_dir("/proc/self/fd")
                .ok()
                .map(|files| files.count() as u64 - 1),
            descriptors_max: descriptors_max(),
        }
    }
}

/// The moment at which the machine started, in seconds since 1970.
fn boot_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    seconds.trim().parse().ok()
}

#[cfg(unix)]
fn descriptors_max() -> Option<u64> {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).current
}

#[cfg(not(unix))]
fn descriptors_max() -> Option<u64> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn linux_reports_every_value() {
        let stats = ProcessStats::read();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - stats.start_time_seconds.unwrap();
        assert!((-2.0..86_400.0).contains(&age), "{age}");
        assert!(stats.cpu_seconds.unwrap() <= age.max(0.0) * 4096.0 + 5.0);
        assert!(stats.threads.unwrap() >= 1);
        assert!(stats.virtual_bytes.unwrap() > 1 << 20);
        let before = stats.open_descriptors.unwrap();
        let _file = std::fs::File::open("/proc/self/stat").unwrap();
        // Other tests open and close files at the same time.
        assert!((1..before + 1000).contains(&ProcessStats::read().open_descriptors.unwrap()));
    }
}
