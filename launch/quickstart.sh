#!/usr/bin/env bash
# The first door: sets up, says what this host has, and writes the tiny model that the embedded default runs on.
# Safe to run again. It needs Python 3.11 with venv, and a network the first time.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

set_up
cd "$ROOT"
hpt() { # hpt VERB ...: the command of this checkout, with what it took
    local began=$SECONDS
    printf '\n[quickstart] hpt %s\n' "$*"
    "$PYTHON" -m hpt_megatron "$@"
    printf '[quickstart] hpt %s: %d s\n' "$1" "$((SECONDS - began))"
}

hpt doctor
hpt tiny runs/tiny-model --overwrite
printf '\n[quickstart] done in %d s; next: source .venv/bin/activate && hpt --help\n' "$SECONDS"
