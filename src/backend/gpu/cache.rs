//! Folder of tuning results and compiled kernels between starts, for the cargo features that tune or compile.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Once;

use cubecl::config::cache::CacheConfig;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

use super::Adapter;

/// The environment variable that replaces the folder `cloze/gpu` among the user's caches.
const VARIABLE: &str = "CLOZE_GPU_CACHE";

/// CubeCL's key of a compiled kernel does not cover its source, so the folder's name does.
const KERNEL_SOURCES: [&str; 9] = [
    include_str!("kernels/attention.rs"),
    include_str!("kernels/bias.rs"),
    include_str!("kernels/mod.rs"),
    include_str!("kernels/norm.rs"),
    include_str!("kernels/pooling.rs"),
    include_str!("kernels/readout.rs"),
    include_str!("kernels/rotary.rs"),
    include_str!("kernels/rows.rs"),
    include_str!("kernels/split_f16.rs"),
];

/// Sets CubeCL's cache folder for `adapter`; the first call of the process counts. Without a writable folder nothing is
/// kept.
pub fn keep(adapter: &Adapter) {
    static FIRST: Once = Once::new();
    FIRST.call_once(|| {
        let configured = std::env::var_os(VARIABLE).filter(|folder| !folder.is_empty());
        let all = configured.map(PathBuf::from);
        let all = all.or_else(|| Some(dirs::cache_dir()?.join("cloze").join("gpu")));
        // CubeCL's defaults read a file in the working directory, which is not trusted, and look for a Cargo project.
        let mut config = CubeClRuntimeConfig::default().override_from_env();
        if let Some(all) = all {
            let folder = of_build(&all, adapter);
            // CubeCL panics if it cannot write the compiled kernels.
            config.compilation.cache = match check_writable(&folder) {
                Ok(()) => Some(CacheConfig::File(folder.clone())),
                Err(error) => {
                    tracing::debug!(folder = %folder.display(), %error, "compiled kernels are not kept");
                    None
                }
            };
            config.autotune.cache = CacheConfig::File(folder);
        }
        CubeClRuntimeConfig::set(config);
    });
}

fn check_writable(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let probe = folder.join(format!(".writable-{}", std::process::id()));
    std::fs::write(&probe, b"")?;
    std::fs::remove_file(&probe)
}

/// A folder for this adapter, this version of its driver, and these kernels: CubeCL itself identifies devices by number
/// only, and the fastest kernel differs between GPUs.
fn of_build(all: &Path, adapter: &Adapter) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    KERNEL_SOURCES.hash(&mut hasher);
    let (version, sources) = (env!("CARGO_PKG_VERSION"), hasher.finish());
    let name = format!(
        "{} {:?} {} {version} {sources:016x}",
        adapter.name, adapter.api, adapter.driver
    );
    let letter = |letter: char| match letter.is_ascii_alphanumeric() || letter == '.' {
        true => letter,
        false => '-',
    };
    all.join(name.chars().map(letter).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_folder_covers_every_kernel() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backend/gpu/kernels");
        let mut files = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let source = std::fs::read_to_string(file.unwrap().path()).unwrap();
            assert!(KERNEL_SOURCES.contains(&source.as_str()));
            files += 1;
        }
        assert_eq!(files, KERNEL_SOURCES.len());
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        assert!(check_writable(&folder.path().join("new")).is_ok());
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(check_writable(&file.join("below")).is_err());
    }
}
