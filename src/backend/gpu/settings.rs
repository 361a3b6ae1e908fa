//! The settings of CubeCL.

use std::sync::Once;

use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

/// Sets CubeCL's settings, once for the process: its defaults and its environment variables. Without this CubeCL reads a
/// file in the working directory, which is not trusted.
pub fn apply() {
    static FIRST: Once = Once::new();
    FIRST.call_once(|| CubeClRuntimeConfig::set(CubeClRuntimeConfig::default().override_from_env()));
}
