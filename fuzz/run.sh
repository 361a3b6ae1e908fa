#!/usr/bin/env bash
# Fuzzes what Cloze reads from others: all targets at once, each on a core of its own if there are as many.
#
#   fuzz/run.sh                       an hour each
#   fuzz/run.sh SECONDS [TARGET...]   so long, these
#
# Wants cargo-fuzz (`cargo install cargo-fuzz`) and a C++ compiler for libFuzzer; the stable toolchain does, told to
# allow what nightly allows. A panic, more than 256 MB in one allocation, 1 GB in all or a minute for one input is a
# finding: it is kept in fuzz/artifacts, and the run goes on and fails at its end. New inputs that reach new code are
# added to fuzz/corpus, minimized; `cargo test --test fuzz_corpus` replays those.
set -euo pipefail
cd "$(dirname "$0")"
seconds="${1:-3600}"
shift || true
targets=("${@:-}")
[ -n "${targets[0]}" ] || targets=(request infer config tokenizer vocab weights)

export RUSTC_BOOTSTRAP=1
# The model folders that the targets write; in memory where there is such a place.
[ -z "${TMPDIR:-}" ] && [ -w /dev/shm ] && export TMPDIR=/dev/shm
build="${CARGO_TARGET_DIR:-target}"
triple=$(rustc -vV | sed -n 's/^host: //p')
cargo fuzz build --target-dir "$build"

work="$build/fuzz-work"
pids=()
for target in "${targets[@]}"; do
    mkdir -p "$work/$target" "artifacts/$target"
    # Children are started anew again and again, so that a finding does not end the run.
    "$build/$triple/release/$target" -fork=1 -ignore_crashes=1 -ignore_ooms=1 -ignore_timeouts=1 \
        -max_total_time="$seconds" -max_len=8192 -timeout="${TIMEOUT:-60}" -rss_limit_mb=1024 -malloc_limit_mb=256 \
        -dict="dict/$target.dict" -artifact_prefix="artifacts/$target/" \
        "$work/$target" "corpus/$target" >"$work/$target.log" 2>&1 &
    pids+=($!)
done
wait "${pids[@]}"

found=0
for target in "${targets[@]}"; do
    # What the run has found, as few and as short files as reach all of it.
    "$build/$triple/release/$target" -merge=1 -max_len=8192 "corpus/$target" "$work/$target" >/dev/null 2>&1
    grep -E '^#[0-9]+:' "$work/$target.log" | tail -1 | sed "s/^/$target /"
    findings=$(find "artifacts/$target" -type f | wc -l)
    [ "$findings" = 0 ] || { echo "$target: $findings findings in fuzz/artifacts/$target"; found=1; }
done
exit "$found"
