//! Sets the configuration `demo_model` if the weights of the demo model are there. The package for crates.io leaves them
//! out: they are larger than the 10 MiB that it allows.

use std::path::Path;

const WEIGHTS: &str = "model/model.safetensors";

fn main() {
    println!("cargo::rustc-check-cfg=cfg(demo_model)");
    println!("cargo::rerun-if-changed={WEIGHTS}");
    if Path::new(WEIGHTS).exists() {
        println!("cargo::rustc-cfg=demo_model");
    }
}
