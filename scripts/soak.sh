#!/usr/bin/env bash
# Kills the NDA review at random moments, again and again, and prints the ledger: rounds, kills, lost, doubled.
#
#   scripts/soak.sh [ROUNDS] [SEED]      200 rounds from seed 1 by default; a seed repeats its moments
set -euo pipefail
cd "$(dirname "$0")/.."
FORGE_SOAK_ROUNDS=${1:-200} FORGE_SOAK_SEED=${2:-1} \
    cargo test --all-features --test nda_review killed_at_random_moments -- --nocapture
