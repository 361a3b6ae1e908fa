//! Folder of tuning results and compiled kernels between starts, for the cargo features that tune or compile.

use std::path::{Path, PathBuf};
use std::sync::Once;

use cubecl::config::cache::CacheConfig;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

use super::Adapter;

/// The environment variable that replaces the folder `cloze/gpu` among the user's caches.
const VARIABLE: &str = "CLOZE_GPU_CACHE";

/// Sets CubeCL's cache folder for `adapter`; the first call of the process counts. Without a writable folder CubeCL
/// logs that and tunes again at each start.
pub fn keep(adapter: &Adapter) {
    static FIRST: Once = Once::new();
    FIRST.call_once(|| {
        let configured = std::env::var_os(VARIABLE).filter(|folder| !folder.is_empty());
        let all = configured.map(PathBuf::from);
        let all = all.or_else(|| Some(dirs::cache_dir()?.join("cloze").join("gpu")));
        // CubeCL's defaults read a file in the working directory, which is not trusted, and look for a Cargo project.
        let mut config = CubeClRuntimeConfig::default().override_from_env();
        if let Some(all) = all {
            let folder = of_adapter(&all, adapter);
            config.autotune.cache = CacheConfig::File(folder.clone());
            config.compilation.cache = Some(CacheConfig::File(folder));
        }
        CubeClRuntimeConfig::set(config);
    });
}

/// A folder for this adapter and this version of its driver: CubeCL itself identifies devices by number only, and the
/// fastest kernel differs between GPUs.
fn of_adapter(all: &Path, adapter: &Adapter) -> PathBuf {
    let name = format!("{} {:?} {}", adapter.name, adapter.api, adapter.driver);
    let letter = |letter: char| match letter.is_ascii_alphanumeric() || letter == '.' {
        true => letter,
        false => '-',
    };
    all.join(name.chars().map(letter).collect::<String>())
}
