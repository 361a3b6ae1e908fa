//! Memory of the machine and of this process, in bytes. Linux only; elsewhere every function returns `None`.

/// Total memory of the machine.
pub fn total() -> Option<u64> {
    kilobytes("/proc/meminfo", "MemTotal:")
}

/// Memory that this process can still allocate: the machine's available memory, or what the container's limit
/// (cgroup v2) leaves if that is less.
pub fn available() -> Option<u64> {
    let available = kilobytes("/proc/meminfo", "MemAvailable:")?;
    let cgroup = |file: &str| {
        let text = std::fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let limit = cgroup("memory.max").zip(cgroup("memory.current"));
    let left = limit.map(|(max, current)| max.saturating_sub(current));
    Some(left.map_or(available, |left| left.min(available)))
}

/// Resident memory (RSS) of this process.
pub fn resident() -> Option<u64> {
    kilobytes("/proc/self/status", "VmRSS:")
}

/// The value of a line such as `VmRSS:    1234 kB`, in bytes.
fn kilobytes(file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_uses_less_than_the_machine_has() {
        let (total, available, resident) = (total().unwrap(), available().unwrap(), resident().unwrap());
        assert!(0 < resident && resident < total, "{resident} of {total}");
        assert!(0 < available && available <= total, "{available} of {total}");
    }
}
