#!/usr/bin/env bash
# The second door: sets up, then runs linters, types and the whole test suite, on all cores. Arguments go to pytest instead of
# that, as in `./launch/test.sh -k wheel`. All of it runs whatever fails; the exit code is the first that is not 0. CI runs
# exactly this, without arguments.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

set_up
cd "$ROOT"
first=0
run() { # run MODULE ARGUMENT...: a Python tool of the environment, with what it took; a failure does not end the run
    local began=$SECONDS
    code=0
    "$PYTHON" -m "$@" || code=$?
    printf '[test] %s: %d s, exit code %d\n' "$1" "$((SECONDS - began))" "$code"
    if [[ $1 == pytest && $code == 5 ]]; then echo "[test] no test ran, which counts as a failure" >&2; fi
    if [[ $first == 0 ]]; then first=$code; fi
}

run ruff check --no-cache # its cache does not see that an imported file is gone
run ruff format --check
run mypy
if (($# == 0)); then set -- --numprocesses=logical --dist=loadscope --no-loadscope-reorder; fi
run pytest "$@"
printf '[test] total: %d s\n' "$SECONDS"
exit "$first"
