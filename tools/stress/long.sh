#!/usr/bin/env bash
# The long runs whose figures are in docs/reliability.md, with the limits on time. Give the machine nothing else to do.
#
#   tools/stress/long.sh              60 s of overload, connections held open, and 30 minutes of soak
#   tools/stress/long.sh SECONDS      with a soak of so many seconds
set -euo pipefail
cd "$(dirname "$0")/../.."
target="${CARGO_TARGET_DIR:-target}"
cargo build --locked --release
cargo build --locked -p cloze-stress
# Clients need descriptors too.
ulimit -n "$(ulimit -Hn)"
stress=("$target/debug/cloze-stress" --server "$target/release/cloze" --timed)
# Clients on the first core, the server on the others, so that neither takes from the other.
cores=$(nproc)
[ "$cores" -gt 1 ] && stress=(taskset -c 0 "${stress[@]}" --server-cores "1-$((cores - 1))")
"${stress[@]}" overload --seconds 60
# A forward pass takes seconds.
"${stress[@]}" overload --seconds 30 -- --max-batch-tokens 40000 --max-batch-size 512
"${stress[@]}" connections
"${stress[@]}" waiting
"${stress[@]}" stop
"${stress[@]}" soak --seconds "${1:-1800}"
