//! What was tuned and compiled on an adapter is kept on disk between starts, with the cargo features that do either.

use std::path::{Path, PathBuf};
use std::sync::Once;

use cubecl::config::cache::CacheConfig;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

use super::Adapter;

/// The folder to keep it in, instead of `cloze/gpu` among the user's caches.
const VARIABLE: &str = "CLOZE_GPU_CACHE";

/// Tells CubeCL where to keep what it finds out about `adapter`; the first call of the process counts. Without a folder that
/// can be written CubeCL says so in the log and finds it out again at each start.
pub fn keep(adapter: &Adapter) {
    static FIRST: Once = Once::new();
    FIRST.call_once(|| {
        let asked = std::env::var_os(VARIABLE).filter(|folder| !folder.is_empty());
        let all = asked.map(PathBuf::from);
        let all = all.or_else(|| Some(dirs::cache_dir()?.join("cloze").join("gpu")));
        // Its own defaults look for a file in the working directory, which is not ours to trust, and for a Cargo project.
        let mut config = CubeClRuntimeConfig::default().override_from_env();
        if let Some(all) = all {
            let folder = of_adapter(&all, adapter);
            config.autotune.cache = CacheConfig::File(folder.clone());
            config.compilation.cache = Some(CacheConfig::File(folder));
        }
        CubeClRuntimeConfig::set(config);
    });
}

/// A folder for this adapter and this version of its driver: CubeCL itself tells devices apart by number only, and what is fast
/// on one card is not on another.
fn of_adapter(all: &Path, adapter: &Adapter) -> PathBuf {
    let name = format!("{} {:?} {}", adapter.name, adapter.api, adapter.driver);
    let letter = |letter: char| match letter.is_ascii_alphanumeric() || letter == '.' {
        true => letter,
        false => '-',
    };
    all.join(name.chars().map(letter).collect::<String>())
}
