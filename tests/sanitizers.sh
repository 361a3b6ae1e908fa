#!/usr/bin/env bash
# The safe functions of the CPU's kernels under AddressSanitizer and ThreadSanitizer. All `unsafe` of the project is
# behind them.
#
# The stable toolchain does, told to allow what nightly allows; the standard library comes as it is, so what happens
# inside it is not watched. Miri would see more, but cannot run vector instructions; with it installed,
# `cargo +nightly miri test -p cloze-kernels` checks the portable ones.
set -euo pipefail
cd "$(dirname "$0")/.."
export RUSTC_BOOTSTRAP=1
target="${CARGO_TARGET_DIR:-target}"
triple=$(rustc -vV | sed -n 's/^host: //p')
for sanitizer in address thread; do
    echo "== $sanitizer"
    # ThreadSanitizer must follow what synchronizes; the standard library that comes with Rust was not built for it,
    # which the compiler must be told to accept. Synchronization is inlined atomics, which are seen.
    RUSTFLAGS="-Zsanitizer=$sanitizer -Cunsafe-allow-abi-mismatch=sanitizer" \
        cargo test --locked -p cloze-kernels --target "$triple" --target-dir "$target/$sanitizer" --lib --tests
done
