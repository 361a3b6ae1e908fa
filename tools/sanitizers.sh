#!/usr/bin/env bash
# The safe functions of the CPU's kernels under AddressSanitizer, ThreadSanitizer and Miri. All `unsafe` of the project is
# behind them.
#
#   tools/sanitizers.sh               all three; Miri where a nightly toolchain has it
#   tools/sanitizers.sh address       one of address, thread, miri
#
# For AddressSanitizer the stable toolchain does, told to allow what nightly allows. The others want a nightly toolchain
# with the standard library's source (`rustup +nightly component add miri rust-src`): ThreadSanitizer must see how its locks
# synchronize, so the library is built for it. Miri sees more, but has no vector instructions; it runs the portable loops
# and what hands out the work.
set -euo pipefail
cd "$(dirname "$0")/.."
target="${CARGO_TARGET_DIR:-target}"
triple=$(rustc -vV | sed -n 's/^host: //p')
address() {
    echo "== address"
    RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address -Cunsafe-allow-abi-mismatch=sanitizer" \
        cargo test --locked -p cloze-kernels --target "$triple" --target-dir "$target/address" --lib --tests
}
thread() {
    echo "== thread"
    if [ ! -d "$(rustc +nightly --print sysroot)/lib/rustlib/src/rust/library" ]; then
        echo "SKIPPED: no nightly toolchain with rust-src here"
        return
    fi
    RUSTFLAGS="-Zsanitizer=thread" cargo +nightly test --locked -Zbuild-std -p cloze-kernels --target "$triple" \
        --target-dir "$target/thread" --lib --tests
}
miri() {
    echo "== miri"
    if ! cargo +nightly miri --version; then
        echo "SKIPPED: no nightly toolchain with Miri here"
        return
    fi
    # Without the thousands of values whose errors are measured, which take Miri half an hour.
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
