//! The limit on open files. Each connection needs one file descriptor.

/// Raises this process's soft limit on open files to its hard limit. Returns the limit; `None` if there is none.
///
/// # Errors
/// The error of the system, with the limit that stays in force.
#[cfg(unix)]
pub fn raise_limit() -> Result<Option<u64>, (std::io::Error, Option<u64>)> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => Ok(maximum),
        Err(error) => Err((error.into(), current)),
    }
}

/// Other systems have no such limit.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn raise_limit() -> Result<Option<u64>, (std::io::Error, Option<u64>)> {
    Ok(None)
}
