#!/usr/bin/env bash
# Everything that must hold, in one command: installs what is missing, then checks formatting, lints, tests, docs, licences and the
# promises about the dependency tree. Needs a Rust toolchain, a C compiler, Python 3, and
# Redis 6.2 or the right to install it (scripts/servers.sh). Prints the minutes of each part; stops at the first failure.
set -euo pipefail
cd "$(dirname "$0")/.."

began=$SECONDS
part() {
    local name=$1 from=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    "$@"
    printf '== %s: %d s\n' "$name" $((SECONDS - from))
}

DENY_VERSION=0.20.2
deny=target/tools/bin/cargo-deny

install() {
    rustup component add rustfmt clippy >/dev/null 2>&1 || true
    cargo fmt --version
    cargo clippy --version
    # built from source: packaged versions do not know today's licence names
    if ! "$deny" --version 2>/dev/null | grep -qF "$DENY_VERSION"; then
        cargo install --quiet --debug --locked --root target/tools --version "$DENY_VERSION" cargo-deny
    fi
    "$deny" --version
}

no_features() {
    # each package by itself, so that no other turns its features on
    for package in forge-core forge-dlp forge-memory forge-metering forge-policy forge-queue forge-telemetry forge-sqlite forge-redis forge-http forge; do
        cargo clippy --quiet -p "$package" --no-default-features -- -D warnings
    done
}

tests() {
    cargo test --workspace --all-features
    # a section of a backend that is not in the build is refused
    cargo test -p forge --test configuration
}

examples() {
    local example
    for example in hello tenant_isolation policy_denies redact_before_model custom_backend mock_adapter axum_host; do
        echo "-- $example"
        cargo run --quiet --all-features --example "$example"
    done
    rm -rf target/example-nda
    cargo run --quiet --all-features --example nda_review -- --out target/example-nda
}

# a crate outside the workspace: without features, with each, and its tests, which mock an adapter
downstream() {
    local feature
    export CARGO_TARGET_DIR=$PWD/target
    for feature in "" memory-openai queue-redis testing mock; do
        cargo check --quiet --locked --manifest-path tests/downstream/Cargo.toml --features "$feature"
    done
    cargo test --locked --manifest-path tests/downstream/Cargo.toml --all-features
}

docs() {
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps --quiet
}

if [ -z "${FORGE_TEST_DATA:-}" ]; then
    echo "left out: what needs the public data sets, because FORGE_TEST_DATA does not name their folder"
fi
part "tools" install
part "servers" scripts/servers.sh
part "formatting" cargo fmt --all --check
part "lints, all features" cargo clippy --quiet --workspace --all-targets --all-features -- -D warnings
part "lints, no features" no_features
part "docs" docs
part "licences, bans, sources" "$deny" --all-features check bans licenses sources
part "examples" examples
part "tests" tests
part "a crate that depends on it" downstream
printf '\nall of it passed in %d s\n' $((SECONDS - began))
