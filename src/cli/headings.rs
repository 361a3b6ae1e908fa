//! The groups of flags in `--help`, in this order.

pub const MODEL: &str = "Model";
pub const HARDWARE: &str = "Hardware";
pub const BATCHING: &str = "Batching";
pub const HTTP: &str = "HTTP";
pub const SECURITY: &str = "Security";
pub const LOGGING: &str = "Logging";
