//! What this CPU can do, for the start-up block and the benches.

/// The vector extensions in use, best first, as one readable string.
pub fn cpu_features() -> String {
    let found = detected();
    match found.is_empty() {
        true => "none beyond the baseline".to_owned(),
        false => found.join(" "),
    }
}

#[cfg(target_arch = "x86_64")]
fn detected() -> Vec<&'static str> {
    [
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
    ]
    .into_iter()
    .filter_map(|(name, present)| present.then_some(name))
    .collect()
}

#[cfg(target_arch = "aarch64")]
fn detected() -> Vec<&'static str> {
    match std::arch::is_aarch64_feature_detected!("neon") {
        true => vec!["neon"],
        false => vec![],
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detected() -> Vec<&'static str> {
    vec![]
}
