#!/usr/bin/env bash
# The first door: sets up, says what this host has, trains the demonstration and reports it. Safe to run again: a run
# that was interrupted goes on, and one that is finished is only reported. It needs Python 3.11 with venv, and a network
# the first time.
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
hpt train experiment=tiny-demo trainer.run_dir=runs/tiny-demo
hpt report runs/tiny-demo
printf '\n[quickstart] done in %d s; next: source .venv/bin/activate && hpt --help\n' "$SECONDS"
