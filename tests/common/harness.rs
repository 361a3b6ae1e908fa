//! Test binaries whose tests depend on the machine.
//!
//! Rust's own harness decides at compile time which tests are ignored. These binaries decide when they start: a test
//! whose requirement is not met is counted as ignored, with the reason in front of its name.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// A requirement of a test on the machine or the build: `Err` names the missing part.
pub type Requirement = Result<(), String>;

/// Tests with one requirement.
pub struct Group {
    pub requirement: Requirement,
    pub tests: Vec<(&'static str, fn())>,
}

/// Runs the tests with the arguments of Rust's own harness.
pub fn run(groups: Vec<Group>) -> ExitCode {
    let trials = groups.into_iter().flat_map(|Group { requirement, tests }| {
        tests.into_iter().map(move |(name, test)| {
            let trial = Trial::test(name, move || {
                test();
                Ok(())
            });
            match &requirement {
                Ok(()) => trial,
                Err(reason) => trial.with_kind(reason).with_ignored_flag(true),
            }
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// The `main` function of a test binary: requirements, and under each the tests that have it.
macro_rules! main {
    ($($requirement:expr => [$($test:ident),+ $(,)?],)+) => {
        pub fn main() -> std::process::ExitCode {
            use crate::common::harness::{Group, run};
            run(vec![$(Group {
                requirement: $requirement,
                tests: vec![$((stringify!($test), $test as fn())),+],
            }),+])
        }
    };
}
pub(crate) use main;
