#!/usr/bin/env bash
# Scores the NDA reader of examples/nda_review on a labelled folder and prints the tables of docs/nda.md.
#
#   scripts/score_nda.sh FOLDER   a folder with contractnli/*.json (ContractNLI's format) or kleister/expected.tsv and its PDFs, or both
#   scripts/score_nda.sh          the development sets below $FORGE_TEST_DATA, with the floors that CI holds
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -gt 0 ]; then
    FORGE_NDA_SET=$(cd "$1" && pwd)
    export FORGE_NDA_SET
elif [ -z "${FORGE_TEST_DATA:-}" ]; then
    echo "give a folder, or set FORGE_TEST_DATA" >&2
    exit 2
fi
cargo test --quiet --release --example nda_review score -- --nocapture --test-threads 1
