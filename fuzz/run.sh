#!/usr/bin/env bash
# Fuzzes the parsers of untrusted input, all targets at the same time.
#
#   fuzz/run.sh                       one hour, all targets
#   fuzz/run.sh SECONDS [TARGET...]   another time, these targets
#   fuzz/run.sh minimize [TARGET...]  fewer inputs that reach the same code; those with a name of their own stay
#
# Needs cargo-fuzz (`cargo install cargo-fuzz`) and a C++ compiler for libFuzzer. The stable toolchain works, with
# RUSTC_BOOTSTRAP set. A panic, an allocation of more than 256 MB, more than 1 GB in all, or a minute for one input is a
# finding: it is kept in fuzz/artifacts, the run continues and fails at its end. New inputs that reach new code are
# minimized and added to fuzz/corpus; `cargo test -p cloze-fuzz-targets` replays that.
set -euo pipefail
cd "$(dirname "$0")"
seconds="${1:-3600}"
shift || true
targets=("${@:-}")
[ -n "${targets[0]}" ] || targets=(request infer config tokenizer vocab weights pytorch)

export RUSTC_BOOTSTRAP=1
# The targets write model folders; in memory where the system has such a folder.
[ -z "${TMPDIR:-}" ] && [ -w /dev/shm ] && export TMPDIR=/dev/shm
build="${CARGO_TARGET_DIR:-target}"
triple=$(rustc -vV | sed -n 's/^host: //p')
cargo fuzz build --target-dir "$build"

work="$build/fuzz-work"
if [ "$seconds" = minimize ]; then
    for target in "${targets[@]}"; do
        rm -rf "$work/named" "$work/found"
        mkdir -p "$work/named" "$work/found"
        cp "corpus/$target"/* "$work/named"
        # Inputs that were found have a hash as their name.
        find "$work/named" -regextype posix-extended -regex '.*/[0-9a-f]{40}' -exec mv -t "$work/found" {} +
        # The fewest of them that reach the same edges.
        "$build/$triple/release/$target" -set_cover_merge=1 -use_counters=0 -max_len=1048576 "$work/named" "$work/found" \
            >"$work/$target.log" 2>&1
        echo "$target: $(find "corpus/$target" -type f | wc -l) inputs, then $(find "$work/named" -type f | wc -l)"
        rm -r "corpus/$target"
        mv "$work/named" "corpus/$target"
    done
    exit
fi
pids=()
for target in "${targets[@]}"; do
    mkdir -p "$work/$target" "artifacts/$target"
    # -fork restarts the child process after a finding.
    "$build/$triple/release/$target" -fork=1 -ignore_crashes=1 -ignore_ooms=1 -ignore_timeouts=1 \
        -max_total_time="$seconds" -max_len=8192 -timeout="${TIMEOUT:-60}" -rss_limit_mb=1024 -malloc_limit_mb=256 \
        -dict="dict/$target.dict" -artifact_prefix="artifacts/$target/" \
        "$work/$target" "corpus/$target" >"$work/$target.log" 2>&1 &
    pids+=($!)
done
wait "${pids[@]}"

found=0
for target in "${targets[@]}"; do
    # Adds the smallest set of new inputs that reaches all of the new code.
    "$build/$triple/release/$target" -merge=1 -max_len=8192 "corpus/$target" "$work/$target" >/dev/null 2>&1
    grep -E '^#[0-9]+:' "$work/$target.log" | tail -1 | sed "s/^/$target /"
    findings=$(find "artifacts/$target" -type f | wc -l)
    [ "$findings" = 0 ] || { echo "$target: $findings findings in fuzz/artifacts/$target"; found=1; }
done
exit "$found"
