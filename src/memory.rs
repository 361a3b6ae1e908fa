//! The machine's memory, as the system tells it. Linux only; elsewhere it is not known.

/// Bytes of memory that there are.
pub fn total() -> Option<u64> {
    meminfo("MemTotal:")
}

/// Bytes of memory that a process may still take: what is free on the machine, or less where a container has a
/// limit (cgroup v2).
pub fn available() -> Option<u64> {
    let free = meminfo("MemAvailable:")?;
    let number = |file: &str| {
        let text = std::fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let limit = number("memory.max").zip(number("memory.current"));
    let left = limit.map(|(max, current)| max.saturating_sub(current));
    Some(left.map_or(free, |left| left.min(free)))
}

fn meminfo(name: &str) -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find(|line| line.starts_with(name))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}
