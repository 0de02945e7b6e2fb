#!/usr/bin/env bash
# Build the container from compute_container.def: what `make` calls.
#
#   scripts/build_container.sh [IMAGE]      # compute_container.sif
#
# Set in the environment, or after `make`:
#
#   BOOTSTRAP, FROM   the base (docker, python:3.11-slim-bookworm); scripts/container_base.sh makes a local one
#   MIRROR, SUITE     for BOOTSTRAP=debootstrap (by default this machine's own mirror, bookworm)
#   WHEELS            a folder of wheels to install from. By default, pip in the image fetches them if the base is
#                     fetched, too; if the base is local, this machine's pip does (WHEELS=none: never this one)
#   BASE_PYTHON       the base's version of Python, for which wheels are fetched (3.11)
#   EXTRAS            extras of pyproject.toml that the image gets (digits)
#   ENGINE            the command to build with (apptainer or singularity, whichever there is)
#   BUILD_OPTIONS     more options of the engine's build command, as --notest
#   PYTHON            a Python 3.11 or newer with venv, to fetch wheels with (python3)
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
image=$(realpath -m "${1:-$root/compute_container.sif}")
bootstrap=${BOOTSTRAP:-docker}
from=${FROM:-}
suite=${SUITE:-bookworm}
private=/opt/decentralizepy/apptainer/wrap/apptainer # where scripts/install_apptainer.sh puts it
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/decentralizepy

fail() { echo "error: $*" >&2; exit 2; }

find_engine() {
    local name
    for name in ${ENGINE:-apptainer singularity "$private"}; do
        command -v "$name" && return
    done
    cat >&2 <<END
error: the container cannot be built here: ${ENGINE:-neither apptainer nor singularity} is not there.

  Debian 12, as root:  scripts/install_apptainer.sh     (into a folder of its own)
  other systems:       the package apptainer or singularity-container
  Grid'5000:           both are on the nodes: reserve one (oarsub -I) and call make there

The container is only needed for machines without this project's Python packages. Without it:

  make run             trains sixteen nodes on this computer and draws the curves
  make help            shows all targets
END
    exit 2
}

# How to get the rights to build: none are missing for root, elsewhere the engine or the site gives them.
find_rights() {
    before=() options=()
    [ "$(id -u)" = 0 ] && return
    if command -v sudo-g5k >/dev/null; then
        before=(sudo-g5k env "PATH=$PATH")
        return
    fi
    options=(--fakeroot)
    if ! grep -qs "^$(id -un):" /etc/subuid && [ "$(basename "$engine")" = singularity ]; then
        echo "note: /etc/subuid has no line for $(id -un), which singularity build --fakeroot needs" >&2
    fi
}

fetched() { case $bootstrap in localimage | oci | oci-archive | debootstrap) return 1 ;; esac; }

# Wheels of the pinned versions, by what they depend on; prints their folder.
fetch_wheels() {
    local python=${PYTHON:-python3} want kept pip=$root/.venv/bin/pip version
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || python=$root/.venv/bin/python
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
        || fail "fetching wheels needs Python 3.11 or newer: set PYTHON, or WHEELS to a folder that has them"
    want=$("$python" "$root/scripts/container_requirements.py" "$root/pyproject.toml" ${EXTRAS:-digits})
    version=${BASE_PYTHON:-3.11}
    kept=$cache/wheels/$({ echo "$version $want"; cat "$root/constraints.txt"; } | sha256sum | cut -c -16)
    if [ ! -d "$kept" ]; then
        mkdir -p "$cache/wheels"
        work=$(mktemp -d "$cache/wheels/.new.XXXXXX")
        if [ ! -x "$pip" ]; then
            "$python" -m venv "$work/venv" && pip=$work/venv/bin/pip
        fi
        echo "fetching wheels for Python $version into $kept (once)" >&2
        echo "$want" >"$work/requirements.txt"
        "$pip" download --quiet --disable-pip-version-check --dest "$work/wheels" --only-binary :all: \
            --python-version "$version" -c "$root/constraints.txt" -r "$work/requirements.txt" >&2 \
            || { rm -rf "$work"; fail "this machine's pip cannot fetch the wheels (see above); set WHEELS to a folder that has them"; }
        mv -T "$work/wheels" "$kept" 2>/dev/null || [ -d "$kept" ] # another build was faster
        rm -rf "$work"
    fi
    echo "$kept"
}

# Disks are slow to sync: build in memory where there is plenty. Base and wheels are unpacked there.
find_room() {
    local free needed=1024 part
    [ -z "${APPTAINER_TMPDIR:-}${SINGULARITY_TMPDIR:-}" ] && ! fetched || return 0
    free=$(df --output=avail -B1M /dev/shm 2>/dev/null | tail -1 || echo 0)
    for part in "$wheels" "$from"; do
        [ ! -e "$part" ] || needed=$((needed + 6 * $(du -sm "$part" | cut -f 1)))
    done
    [ "$free" -lt "$needed" ] || export APPTAINER_TMPDIR=/dev/shm SINGULARITY_TMPDIR=/dev/shm
}

engine=$(find_engine)
find_rights
[ -z "$from" ] && fetched && from=python:3.11-slim-bookworm
[ -n "$from" ] || [ "$bootstrap" = debootstrap ] \
    || fail "BOOTSTRAP=$bootstrap needs FROM; scripts/container_base.sh FOLDER makes FOLDER/oci and FOLDER/root"
case $bootstrap in
    localimage | oci | oci-archive) [ -e "$from" ] || fail "FROM=$from is not there" ;;
    debootstrap)
        mirror=${MIRROR:-$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 2>/dev/null | grep -m1 '/debian/\?$' || true)}
        [ -n "$mirror" ] || fail "BOOTSTRAP=debootstrap needs MIRROR" ;;
esac

wheels=
case ${WHEELS:-} in
    none) ;;
    '') fetched || wheels=$(fetch_wheels) ;;
    *) wheels=$(realpath "$WHEELS"); ls "$wheels"/*.whl >/dev/null 2>&1 || fail "WHEELS=$WHEELS has no wheels" ;;
esac
find_room

revision=$(git -C "$root" rev-parse HEAD 2>/dev/null || echo unknown)
[ -z "$(git -C "$root" status --porcelain --untracked-files=no 2>/dev/null)" ] || revision=$revision+dirty
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/pyproject.toml" | head -1)
arguments=("BOOTSTRAP=$bootstrap" "FROM=${from:-none}" "SUITE=$suite" "MIRROR=${mirror:-none}" "EXTRAS=${EXTRAS:-digits}"
    "REVISION=$revision" "VERSION=${version:-unknown}")
for argument in "${arguments[@]}"; do
    options+=(--build-arg "$argument")
done
[ -z "$wheels" ] || options+=(--bind "$wheels:/mnt")

mkdir -p "$(dirname "$image")"
aside=$(mktemp -d "$(dirname "$image")/.building.XXXXXX")
trap 'rm -rf "$aside"' EXIT
cd "$root" # %files of the definition are relative to where the engine is called
echo "building $image with $(basename "$engine") from $bootstrap ${from:-$mirror}"
read -r -a more <<<"${BUILD_OPTIONS:-}"
# --force: labels of the base, if it is an image of ours, are replaced
"${before[@]}" "$engine" build --force "${options[@]}" "${more[@]}" "$aside/image.sif" compute_container.def
[ -s "$aside/image.sif" ] || fail "$engine build made no image"
if [ ${#before[@]} -gt 0 ]; then
    sudo-g5k chown "$(id -u):$(id -g)" "$aside/image.sif"
fi
mv "$aside/image.sif" "$image"
echo "built $image: docs/by_hand.md shows how to run it"
