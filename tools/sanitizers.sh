#!/usr/bin/env bash
# The tests of the packages with `unsafe` code under AddressSanitizer, ThreadSanitizer and Miri.
#
#   tools/sanitizers.sh               all three
#   tools/sanitizers.sh address       one of address, thread, miri
#
# AddressSanitizer works with the stable toolchain and RUSTC_BOOTSTRAP=1. The others need a nightly toolchain with the source
# of the standard library (`rustup +nightly component add miri rust-src`): ThreadSanitizer must instrument its locks. Miri
# checks the aliasing rules too, but has no vector instructions; it runs the portable kernels, the thread pool and
# `disjoint`. A check whose toolchain is missing is reported as not run.
set -euo pipefail
cd "$(dirname "$0")/.."
target="${CARGO_TARGET_DIR:-target}"
packages=(-p cloze-kernels -p cloze-amx-emulator -p cloze-allocator)
triple=$(rustc -vV | sed -n 's/^host: //p')
address() {
    echo "== address"
    RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address -Cunsafe-allow-abi-mismatch=sanitizer" \
        cargo test --locked "${packages[@]}" --target "$triple" --target-dir "$target/address" --lib --tests
}
thread() {
    echo "== thread"
    if [ ! -d "$(rustc +nightly --print sysroot)/lib/rustlib/src/rust/library" ]; then
        echo "NOT RUN: no nightly toolchain with rust-src"
        return
    fi
    RUSTFLAGS="-Zsanitizer=thread" cargo +nightly test --locked -Zbuild-std "${packages[@]}" --target "$triple" \
        --target-dir "$target/thread" --lib --tests
}
miri() {
    echo "== miri"
    if ! cargo +nightly miri --version; then
        echo "NOT RUN: no nightly toolchain with Miri"
        return
    fi
    # Without the tests over thousands of values, which take Miri half an hour.
    MIRIFLAGS="-Zmiri-deterministic-floats -Zmiri-permissive-provenance" CARGO_TARGET_DIR="$target/miri" \
        cargo +nightly miri test --locked -p cloze-kernels --lib -- \
        --skip within_its_stated_error --skip every_panel_meets --skip close_to_f64
}
checks=("$@")
[ $# -gt 0 ] || checks=(address thread miri)
for check in "${checks[@]}"; do
    case "$check" in
        address | thread | miri) "$check" ;;
        *) echo "no check is called $check" >&2; exit 2 ;;
    esac
done
