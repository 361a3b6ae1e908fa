//! Starts without the permission for a file or a port. Each ends with one sentence that names it.
//!
//! The tests need a user without root's permissions. Run as root, they start the binary as another user.

mod common;

#[cfg(not(unix))]
fn main() {}

#[cfg(unix)]
fn main() -> std::process::ExitCode {
    unix::main()
}

#[cfg(unix)]
mod unix {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::process::Command;
    use std::sync::{Mutex, PoisonError};

    use crate::common::fixtures::golden_copy;
    use crate::common::harness::{self, Requirement};
    use crate::common::machine::nothing;
    use crate::common::server::failure;

    harness::main! {
        nothing() => [an_unreadable_file_is_named],
        privileged_ports() => [a_privileged_port_is_named],
    }

    /// User and group `nobody`.
    const NOBODY: u32 = 65534;
    const PRIVILEGED_PORT: u32 = 7;

    /// A system that reserves low ports for root.
    fn privileged_ports() -> Requirement {
        // Without that file the first 1024 ports are reserved.
        let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
        match first.ok().and_then(|port| port.trim().parse().ok()).unwrap_or(1024) {
            0..=PRIVILEGED_PORT => Err("any user may listen on any port".to_owned()),
            _ => Ok(()),
        }
    }

    /// One test at a time: a child that is forked while the copy of the binary is open for writing keeps the system
    /// from running the copy ("text file busy").
    static ALONE: Mutex<()> = Mutex::new(());

    /// The binary as a user other than root, copied to `folder`, where that user may run it.
    fn as_nobody(folder: &Path) -> Command {
        let metadata = std::fs::metadata(folder).unwrap();
        if metadata.uid() != 0 {
            return Command::new(env!("CARGO_BIN_EXE_cloze"));
        }
        set_mode(folder, 0o755);
        let binary = folder.join("cloze");
        std::fs::copy(env!("CARGO_BIN_EXE_cloze"), &binary).unwrap();
        let mut command = Command::new(binary);
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
        command
    }

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn an_unreadable_file_is_named() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        for name in ["config.json", "tokenizer.json", "model.safetensors"] {
            let copy = golden_copy("uncased-tied");
            set_mode(copy.path(), 0o755);
            for entry in std::fs::read_dir(copy.path()).unwrap() {
                set_mode(&entry.unwrap().path(), 0o644);
            }
            set_mode(&copy.path().join(name), 0);
            let error = failure(as_nobody(folder.path()).arg("--model").arg(copy.path()));
            assert_eq!(error.lines().count(), 1, "{error}");
            assert!(error.contains(&format!("{name}: Permission denied")), "{error}");
        }
        let closed = golden_copy("uncased-tied");
        set_mode(closed.path(), 0);
        let error = failure(as_nobody(folder.path()).arg("--model").arg(closed.path()));
        set_mode(closed.path(), 0o755);
        assert!(
            error.contains("Permission denied") && error.lines().count() == 1,
            "{error}"
        );
    }

    fn a_privileged_port_is_named() {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        let port = PRIVILEGED_PORT.to_string();
        let error = failure(as_nobody(folder.path()).args(["--port", &port]));
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(
            error.contains(&format!("127.0.0.1:{port}")) && error.contains("--port"),
            "{error}"
        );
    }
}
