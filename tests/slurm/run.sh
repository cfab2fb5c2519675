#!/usr/bin/env bash
# Runs the tests that need SLURM's daemons by the given Python. As root it installs the daemons first; where that cannot
# be done it says in one line that nothing was tested, and exits with 0.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1

skip() {
    echo "SKIPPED: SLURM tests were not run: $1"
    exit 0
}

why_not() {
    "$python" -c 'from tests.slurm.cluster import available; print(available() or "")'
}

install_daemons() {
    local wanted missing=() output policy=/usr/sbin/policy-rc.d options=(-qq -o DPkg::Lock::Timeout=120 -o Acquire::Retries=1)
    wanted=$("$python" -c 'from tests.slurm.cluster import PACKAGES; print(*PACKAGES)')
    for package in $wanted; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    echo "installing ${missing[*]} by apt-get"
    # The packages would start daemons of their own, now and whenever the machine starts.
    if [ ! -e "$policy" ]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    # The lists of packages may be missing or old.
    output=$(apt-get "${options[@]}" install -y --no-install-recommends "${missing[@]}" 2>&1) ||
        output=$(apt-get "${options[@]}" update 2>&1 &&
            apt-get "${options[@]}" install -y --no-install-recommends "${missing[@]}" 2>&1) ||
        { tail -n 5 <<<"$output" >&2; skip "apt-get could not install ${missing[*]}"; }
    for package in "${missing[@]}"; do
        systemctl disable "$package" >/dev/null 2>&1 || true
    done
}

reason=$(why_not)
if [ -n "$reason" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    install_daemons
    reason=$(why_not)
fi
[ -z "$reason" ] || skip "$reason"
"$python" -m pytest -m slurm tests/slurm
