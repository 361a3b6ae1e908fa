//! Memory of the machine and of this process, in bytes. Linux only; elsewhere the functions that measure return `None`.

use std::fmt;
use std::path::{Path, PathBuf};

/// Memory that this process can still allocate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Available {
    pub bytes: u64,
    pub limit: Limit,
}

/// The limit that decides how much is available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Machine,
    Commit,
    Cgroup,
    AddressSpace,
    Data,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Machine => "free memory and swap of the machine",
            Self::Commit => "the machine's commit limit (vm.overcommit_memory is 2)",
            Self::Cgroup => "the memory limit of the container or control group",
            Self::AddressSpace => "the limit on address space (ulimit -v)",
            Self::Data => "the limit on data (ulimit -d)",
        })
    }
}

/// Total memory of the machine.
pub fn total() -> Option<u64> {
    kilobytes("/proc/meminfo", "MemTotal:")
}

/// The least that the machine, the control group and the resource limits of this process leave.
pub fn available() -> Option<Available> {
    let machine = kilobytes("/proc/meminfo", "MemAvailable:")?;
    let swap = kilobytes("/proc/meminfo", "SwapFree:").unwrap_or(0);
    let left = [
        (Limit::Machine, Some(machine.saturating_add(swap))),
        (Limit::Commit, commit_left()),
        (
            Limit::Cgroup,
            cgroup_left(Path::new("/sys/fs/cgroup"), "/proc/self/cgroup", swap),
        ),
        (Limit::AddressSpace, resource_left(Limit::AddressSpace)),
        (Limit::Data, resource_left(Limit::Data)),
    ];
    let known = left
        .into_iter()
        .filter_map(|(limit, bytes)| Some(Available { bytes: bytes?, limit }));
    known.min_by_key(|available| available.bytes)
}

/// Resident memory (RSS) of this process.
pub fn resident() -> Option<u64> {
    kilobytes("/proc/self/status", "VmRSS:")
}

/// A machine without overcommitment refuses allocations beyond this, however much memory is free.
fn commit_left() -> Option<u64> {
    let mode = std::fs::read_to_string("/proc/sys/vm/overcommit_memory").ok()?;
    if mode.trim() != "2" {
        return None;
    }
    let committed = kilobytes("/proc/meminfo", "Committed_AS:")?;
    Some(kilobytes("/proc/meminfo", "CommitLimit:")?.saturating_sub(committed))
}

/// The least that this process's control group and those above it leave; cgroup v2 and v1. File pages are not counted
/// as used, because the system reclaims them.
fn cgroup_left(root: &Path, list: &str, swap_free: u64) -> Option<u64> {
    let list = std::fs::read_to_string(list).ok()?;
    let mut left = Vec::new();
    for line in list.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        if controllers.is_empty() {
            let groups = groups(root, path).into_iter();
            left.extend(groups.filter_map(|group| v2_left(&group, swap_free)));
        } else if controllers.split(',').any(|name| name == "memory") {
            let groups = groups(&root.join("memory"), path).into_iter();
            left.extend(groups.filter_map(|group| v1_left(&group)));
        }
    }
    left.into_iter().min()
}

/// The folder of `path` below `root` and all folders between them. In a container the path may not exist below the
/// root, which then is the container's own group.
fn groups(root: &Path, path: &str) -> Vec<PathBuf> {
    let path = Path::new(path.trim_start_matches('/'));
    path.ancestors().map(|group| root.join(group)).collect()
}

fn v2_left(group: &Path, swap_free: u64) -> Option<u64> {
    let number = |file: &str| number(&group.join(file));
    let max = number("memory.max")?;
    let used = number("memory.current")?.saturating_sub(file_pages(group, ["active_file", "inactive_file"]));
    let swap = match number("memory.swap.max") {
        Some(max) => max
            .saturating_sub(number("memory.swap.current").unwrap_or(0))
            .min(swap_free),
        None => swap_free,
    };
    Some(max.saturating_sub(used).saturating_add(swap))
}

fn v1_left(group: &Path) -> Option<u64> {
    let max = number(&group.join("memory.limit_in_bytes"))?;
    let used = number(&group.join("memory.usage_in_bytes"))?;
    let pages = file_pages(group, ["total_active_file", "total_inactive_file"]);
    Some(max.saturating_sub(used.saturating_sub(pages)))
}

/// A file that holds a number; `None` for `max`.
fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn file_pages(group: &Path, names: [&str; 2]) -> u64 {
    let stat = std::fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let fields = stat.lines().filter_map(|line| line.split_once(' '));
    let pages = fields.filter(|(name, _)| names.contains(name));
    pages.filter_map(|(_, bytes)| bytes.parse::<u64>().ok()).sum()
}

#[cfg(target_os = "linux")]
fn resource_left(limit: Limit) -> Option<u64> {
    use rustix::process::{Resource, getrlimit};
    let (resource, used) = match limit {
        Limit::AddressSpace => (Resource::As, "VmSize:"),
        _ => (Resource::Data, "VmData:"),
    };
    let max = getrlimit(resource).current?;
    Some(max.saturating_sub(kilobytes("/proc/self/status", used)?))
}

#[cfg(not(target_os = "linux"))]
fn resource_left(_: Limit) -> Option<u64> {
    None
}

/// Returns freed memory to the system, where the C library keeps it for later.
pub fn give_back() {
    cloze_allocator::trim();
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

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_process_uses_less_than_the_machine_has() {
        let (total, available, resident) = (total().unwrap(), available().unwrap(), resident().unwrap());
        assert!(0 < resident && resident < total, "{resident} of {total}");
        assert!(0 < available.bytes, "{available:?}");
    }

    /// Writes the files of a control group.
    fn group(folder: &Path, files: &[(&str, String)]) {
        std::fs::create_dir_all(folder).unwrap();
        for (name, content) in files {
            std::fs::write(folder.join(name), content).unwrap();
        }
    }

    fn left(root: &Path, list: &str, swap_free: u64) -> Option<u64> {
        let file = root.join("list");
        std::fs::write(&file, list).unwrap();
        cgroup_left(root, file.to_str().unwrap(), swap_free)
    }

    #[test]
    fn the_tightest_control_group_counts_without_its_file_pages() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let list = "0::/system.slice/cloze.service\n";
        assert_eq!(left(root, list, 0), None);
        let max = |mib: u64| ("memory.max", format!("{}\n", mib * MIB));
        let current = |mib: u64| ("memory.current", format!("{}\n", mib * MIB));
        let pages = |mib: u64| {
            let bytes = mib * MIB;
            (
                "memory.stat",
                format!("anon 5\nactive_file {bytes}\nfile 9\ninactive_file {bytes}\n"),
            )
        };
        let service = root.join("system.slice/cloze.service");
        group(&service, &[("memory.max", "max\n".to_owned()), current(100)]);
        assert_eq!(left(root, list, 0), None);
        // The limit of the slice above, of which 300 MiB are file pages.
        group(&root.join("system.slice"), &[max(1000), current(700), pages(150)]);
        assert_eq!(left(root, list, 0), Some(600 * MIB));
        group(&service, &[max(500), current(100)]);
        assert_eq!(left(root, list, 0), Some(400 * MIB));
        assert_eq!(left(root, list, 50 * MIB), Some(450 * MIB));
        group(&service, &[("memory.swap.max", "0\n".to_owned())]);
        assert_eq!(left(root, list, 50 * MIB), Some(400 * MIB));
        // In a container the root is the group.
        let root = root.join("container");
        group(&root, &[max(64), current(14)]);
        assert_eq!(left(&root, "0::/../elsewhere\n", 0), Some(50 * MIB));
    }

    #[test]
    fn the_limit_of_cgroup_v1_counts() {
        let root = tempfile::tempdir().unwrap();
        let list = "12:cpuset:/x\n5:cpu,memory:/docker/1\n";
        group(
            &root.path().join("memory/docker/1"),
            &[
                ("memory.limit_in_bytes", format!("{}\n", 300 * MIB)),
                ("memory.usage_in_bytes", format!("{}\n", 200 * MIB)),
                (
                    "memory.stat",
                    format!("active_file 1\ntotal_inactive_file {}\n", 50 * MIB),
                ),
            ],
        );
        assert_eq!(left(root.path(), list, 0), Some(150 * MIB));
    }
}
