#!/bin/sh
# Installs glm-scale, with the exact versions of constraints.txt, into a virtual environment (default .venv).
#   [PYTHON=python3.12] [EXTRAS=dev] docker/install.sh [VENV]
# EXTRAS: which optional dependencies of pyproject.toml come along, as dev,fla; by default dev. EXTRAS= brings none.
# On a Debian machine it checks for what pip cannot bring and prints the one line that installs it.
set -eu
cd "$(dirname "$0")/.."
venv=${1:-.venv}
python=${PYTHON:-python3}
extras=${EXTRAS-dev}

missing=""
if ! command -v "$python" >/dev/null 2>&1; then
    missing="python3 python3-venv python3-dev"
else
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "glm-scale needs Python 3.11 or newer; $python is $("$python" --version 2>&1 | cut -d' ' -f2)." >&2
        echo "Name another with: make PYTHON=python3.12 <target>" >&2
        exit 1
    }
    "$python" -c 'import venv, ensurepip' 2>/dev/null || missing="$missing python3-venv"
    # DeepSpeed compiles a small communication operator on first use; Triton a launcher.
    "$python" -c 'import pathlib, sys, sysconfig; sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' ||
        missing="$missing python3-dev"
fi
command -v g++ >/dev/null 2>&1 || missing="$missing g++"
if [ -n "$missing" ]; then
    sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo "
    echo "Missing on this machine:$missing. Install with:" >&2
    echo "    ${sudo}apt-get update && ${sudo}apt-get install -y g++ python3-dev python3-venv" >&2
    exit 1
fi

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
echo "Installing glm-scale and its tested dependencies into $venv ..."
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".${extras:+[$extras]}"
