#!/usr/bin/env bash
# The second door: sets up, then runs linters, types and the whole test suite. Arguments go to pytest, as in
# `./launch/test.sh -k wheel`. CI runs exactly this, without arguments.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

set_up
cd "$ROOT"
run() { # run MODULE ARGUMENT...: a Python tool of the environment, with what it took
    local began=$SECONDS code=0
    "$PYTHON" -m "$@" || code=$?
    printf '[test] %s: %d s, exit code %d\n' "$1" "$((SECONDS - began))" "$code"
    return "$code"
}

run ruff check
run ruff format --check
run mypy
code=0
run pytest "$@" || code=$?
if [[ $code == 5 ]]; then echo "[test] no test ran, which counts as a failure" >&2; fi
printf '[test] total: %d s\n' "$SECONDS"
exit "$code"
