//! File descriptors: each connection needs one.

/// What the process needs beside its connections, generously.
const OTHERS: u64 = 64;

/// Takes as many descriptors as this process may have without more rights, and says so if `connections` of them are
/// still too many.
#[cfg(unix)]
pub fn raise(connections: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: maximum,
        maximum,
    };
    let now = match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit on open files cannot be raised");
            current
        }
    };
    // `None` is no limit.
    if let Some(allowed) = now.filter(|&now| now < connections + OTHERS) {
        tracing::warn!(
            "the system allows {allowed} open files, too few for --max-connections {connections}; further connections \
             will wait (ulimit -Hn, or LimitNOFILE in a systemd unit)"
        );
    }
}

/// Other systems have no such limit.
#[cfg(not(unix))]
pub fn raise(_connections: u64) {
    let _ = OTHERS;
}
