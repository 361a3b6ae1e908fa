//! Turns `bert.onnx` into Rust: `$OUT_DIR/bert.rs`, its weights inside.

// burn-import says that it is deprecated: since 0.21 it hands on to burn-onnx, which is what does the work here.
#[allow(deprecated)]
use burn_import::onnx::{LoadStrategy, ModelGen};

fn main() {
    println!("cargo::rerun-if-changed=bert.onnx");
    println!("cargo::rerun-if-changed=build.rs");
    ModelGen::new()
        .input("bert.onnx")
        .out_dir(".")
        .load_strategy(LoadStrategy::Embedded)
        .run_from_script();
}
