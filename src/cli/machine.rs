//! What this machine is, as far as the system says.

/// The processor's own name.
pub fn cpu_name() -> Option<String> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Bytes of memory that a process may still take: what is free on the machine, or less where a container has a
/// limit (cgroup v2). Linux only.
pub fn available_memory() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find(|line| line.starts_with("MemAvailable:"))?;
    let free = line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024;
    let number = |file: &str| {
        let text = std::fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let limit = number("memory.max").zip(number("memory.current"));
    let left = limit.map(|(max, current)| max.saturating_sub(current));
    Some(left.map_or(free, |left| left.min(free)))
}
