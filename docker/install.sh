#!/bin/sh
# Installs glm-scale, with the exact versions of constraints.txt, into a virtual environment (default .venv).
#   [PYTHON=python3.12] [EXTRAS=dev] docker/install.sh [VENV]
# EXTRAS: which optional dependencies of pyproject.toml come along, as dev,fla; by default dev. EXTRAS= brings none.
# On a Debian machine it checks for what pip cannot bring and prints the one line that installs it. All that pip says
# is in VENV/install.log; VENV/.installed is there once everything is.
set -eu
cd "$(dirname "$0")/.."
venv=${1:-.venv}
python=${PYTHON:-python3}
extras=${EXTRAS-dev}

# Of some dependencies, torch and triton among them, there are binaries for these machines alone.
case "$(uname -s) $(uname -m)" in
"Linux x86_64" | "Linux aarch64") ;;
*)
    echo "glm-scale runs on Linux on x86_64 and aarch64, not on $(uname -s) on $(uname -m)." >&2
    exit 1
    ;;
esac

missing=""
if ! command -v "$python" >/dev/null 2>&1; then
    missing="python3 python3-venv python3-dev"
else
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "glm-scale needs Python 3.11 or newer; $python is $("$python" --version 2>&1 | cut -d' ' -f2)." >&2
        echo "Name another with: make PYTHON=python3.12 <target>" >&2
        exit 1
    }
    "$python" -c 'import platform, sys; sys.exit(platform.libc_ver()[0] != "glibc")' || {
        echo "glm-scale needs a Linux with glibc, for which torch is built; Alpine and others with musl have none." >&2
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

# Shows where pip is, from what it says: one line that is redrawn on a terminal, elsewhere a line now and then.
progress() {
    packages=0
    while IFS= read -r line; do
        printf '%s\n' "$line" >>"$venv/install.log"
        now="" matters=""
        case $line in
        "Collecting "* | "Requirement already satisfied: "*)
            packages=$((packages + 1))
            now="looked up $packages packages"
            [ $((packages % 50)) != 0 ] || matters=yes
            ;;
        *"Downloading "*)
            now=${line#*Downloading }
            now="downloading ${now##*/}"
            case $line in *"("[0-9][0-9][0-9]*" MB)" | *" GB)") matters=yes ;; esac
            ;;
        *"Building wheel for "*started | *"Building editable for "*started) now="building ${line#*for }" ;;
        "Installing collected packages: "*)
            set -- $line
            now="unpacking $(($# - 3)) packages, which takes a minute or two"
            matters=yes
            ;;
        esac
        if [ -n "$now" ] && [ -t 1 ]; then
            printf '\r\033[K  %.76s' "$now"
        elif [ -n "$matters" ]; then
            printf '  %s\n' "$now"
        fi
    done
    [ ! -t 1 ] || printf '\r\033[K'
}

# Nothing that is left of an earlier start passes for an installation.
rm -f "$venv/.installed"
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv "$venv"
# What was interrupted may have left packages half unpacked, which pip takes for whole ones.
again=""
[ ! -e "$venv/.installing" ] || again=--force-reinstall
: >"$venv/.installing"
: >"$venv/install.log"

echo "Installing glm-scale and its tested dependencies into $venv (a few GB; all that pip says is in $venv/install.log)"
{
    code=0
    PYTHONUNBUFFERED=1 "$venv/bin/python" -m pip install --no-input --progress-bar off --disable-pip-version-check \
        $again -c constraints.txt -e ".${extras:+[$extras]}" 2>&1 || code=$?
    echo $code >"$venv/.installing"
} | progress

code=$(cat "$venv/.installing")
if [ "$code" != 0 ]; then
    # From the first error on, but for warnings; all of the end if pip calls nothing an error.
    errors=$(sed -n '/^ *\(ERROR\|error\|Traceback\)/,$p' "$venv/install.log" | grep -v '^WARNING: ') || true
    printf '%s\n' "${errors:-$(tail -n 30 "$venv/install.log")}" >&2
    echo "The installation into $venv failed with the above; start the same command again when that is cured." >&2
    exit "${code:-1}"
fi
rm "$venv/.installing"
touch "$venv/.installed"
echo "Installed into $venv"
