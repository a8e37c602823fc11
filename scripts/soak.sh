#!/usr/bin/env bash
# Breaks what must not lose anything, at random moments, again and again, and prints the ledger: what was accepted, lost, doubled.
#
#   scripts/soak.sh [workflow] [ROUNDS] [SEED]   kills the NDA review
#   scripts/soak.sh queue [ROUNDS] [SEED]        breaks Redis and the workers of the queue on it: one server, TLS, Sentinel, Cluster
#
# 200 rounds from seed 1 by default. A seed repeats its faults; `soak.sh queue 1 SEED` is one round of each kind of server with that seed.
set -euo pipefail
cd "$(dirname "$0")/.."
what=workflow
case ${1:-} in
workflow | queue)
    what=$1
    shift
    ;;
esac
export FORGE_SOAK_ROUNDS=${1:-200} FORGE_SOAK_SEED=${2:-1}
case $what in
workflow) cargo test --all-features --test nda_review killed_at_random_moments -- --nocapture ;;
queue) cargo test -p forge-queue --features redis --test chaos -- --nocapture rounds:: window:: ;;
esac
