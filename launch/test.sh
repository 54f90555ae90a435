#!/usr/bin/env bash
# The second door: sets up, then runs linters, types and the whole test suite, on all cores. Arguments go to pytest instead of
# that, as in `./launch/test.sh -k wheel`. All of it runs whatever fails; the exit code is the first that is not 0. CI runs
# exactly this, without arguments.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

install_slurm() { # the tests of jobs start a real one; without it they say why they are left out
    command -v slurmctld slurmd munged sbatch >/dev/null && return
    if [[ $EUID == 0 ]] && command -v apt-get >/dev/null; then
        say "the tests of jobs need SLURM; installing the system packages slurm-wlm and munge"
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            slurm-wlm slurmctld slurmd slurm-client munge; } >"$LOG.slurm" 2>&1 && return
    fi
    say "no SLURM here: the tests of jobs are left out; on Debian or Ubuntu, as root: apt-get install slurm-wlm munge"
}

set_up
if (($# == 0)); then install_slurm; fi
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
