#!/usr/bin/env bash
# Try another Python: install the package from a wheel into an environment of its own, with the versions of
# constraints.txt, train the same sixteen nodes there and with the Python that you use, and compare all final
# parameters bit by bit.
#
#   scripts/try_python.sh python3.13            # in a temporary folder, which is removed
#   scripts/try_python.sh python3.13 FOLDER     # keeps the environment in FOLDER for the next time
#
# BASE (default .venv/bin/python) is the Python to compare with. pip's own variables are heeded: where only the CPU
# build of PyTorch is wanted, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.
set -euo pipefail

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
python=$1
root=$(cd "$(dirname "$0")/.." && pwd)
base=${BASE:-$root/.venv/bin/python}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$python: 3.11 or newer is needed" >&2; exit 2; }
"$base" -c 'import torch' || { echo "$base has no PyTorch: call 'make run' first, or set BASE" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
kept=${2:-$work}
mkdir -p "$kept" "$work/source"
kept=$(cd "$kept" && pwd)

cp -r "$root"/{decentralizepy,orchestrator,results,pyproject.toml,README.md,LICENSE} "$work/source"
[ -x "$kept/venv/bin/python" ] || "$python" -m venv "$kept/venv"
echo "installing into $kept/venv"
"$kept/venv/bin/pip" wheel --quiet --no-deps --wheel-dir "$work" "$work/source"
wheel=$(ls "$work"/decentralizepy-*.whl)
"$kept/venv/bin/pip" install --quiet --force-reinstall --no-deps "$wheel"
"$kept/venv/bin/pip" install --quiet -c "$root/constraints.txt" "$wheel[digits]"

train() { # PYTHON NAME: prints the digest of all final parameters
    (
        cd "$work"
        "$1" -m decentralizepy run -cf "$root/run_configuration/digits_kshard2_mlp.ini" \
            -gf "$root/run_configuration/16_4regular.edges" -is 200 -ta 100 -tea 100 -ro 0 \
            --workers 2 --cache-dir "$work/cache_$2" -ld "$work/$2" >"$work/$2.txt" 2>&1 \
            || { cat "$work/$2.txt" >&2; exit 5; }
        cd "$work/$2" && sha256sum 199_weight_*.safetensors
    )
}

describe='import platform, torch; print("Python", platform.python_version(), "PyTorch", torch.__version__)'
PYTHONPATH=$root train "$base" base >"$work/base.sha256"
PYTHONPATH= train "$kept/venv/bin/python" other >"$work/other.sha256"
nodes=$(wc -l <"$work/other.sha256")
"$base" -c "$describe"
"$kept/venv/bin/python" -c "$describe"
if [ "$nodes" -eq 16 ] && cmp -s "$work/base.sha256" "$work/other.sha256"; then
    echo "the parameters of all $nodes nodes are equal, bit by bit"
else
    echo "the parameters differ:" >&2
    diff "$work/base.sha256" "$work/other.sha256" >&2 || true
    exit 1
fi
