#!/usr/bin/env bash
# What tests/container needs, on Debian 12 as root: Apptainer, a base, wheels, and the image of this tree.
# Prints the image's path; elsewhere says why not, and ends with 3. What is there already is kept.
#
# The image is built in two steps by the same definition, first with all that is installed and none of our code, then
# with the code on top: so a change of the code costs seconds.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
place=${DECENTRALIZEPY_CONTAINERS:-/var/cache/decentralizepy/container}

PYTHON=$(realpath -s "$(command -v "${PYTHON:-python3}")") # other folders are entered below
export PYTHON

. /etc/os-release
if [ "$(id -u)" != 0 ] || [ "${ID:-}" != debian ] || [ "${VERSION_ID:-}" != 12 ]; then
    echo "tests with a real container need root on Debian 12" >&2
    exit 3
fi
if ! unshare --mount --pid --fork mount -t tmpfs none /mnt 2>/dev/null; then
    echo "tests with a real container need the right to make namespaces and to mount" >&2
    exit 3
fi

"$root/scripts/install_apptainer.sh" >/dev/null
mkdir -p "$place"
exec 9>"$place/.lock"
flock 9
"$root/scripts/container_base.sh" "$place/base" >&2

of_packages=(compute_container.def constraints.txt pyproject.toml scripts/build_container.sh scripts/container_base.sh
    scripts/oci_layout.py scripts/container_requirements.py)
of_code=(decentralizepy run_configuration scripts/container_run.py)

hash_of() { # PATH...: of names and contents, without bytecode
    (cd "$root" && find "$@" -type f ! -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c -16)
}

build() { # TREE IMAGE, and make's variables in the environment
    echo "building $2 (its log is beside it)" >&2
    if ! env -u MAKEFLAGS -u MAKELEVEL make -C "$1" container IMAGE="$2.part.sif" >"$2.log" 2>&1; then
        tail -40 "$2.log" >&2
        echo "building $2 failed" >&2
        exit 1
    fi
    mv "$2.part.sif" "$2"
}

packages=$place/packages-$(hash_of "${of_packages[@]}").sif
if [ ! -e "$packages" ]; then
    find "$place" -maxdepth 1 -name 'packages-*' -mmin +60 -delete
    tree=$(mktemp -d)
    trap 'rm -rf "$tree"' EXIT
    mkdir -p "$tree"/{decentralizepy,run_configuration,scripts}
    (cd "$root" && cp Makefile compute_container.def constraints.txt pyproject.toml "$tree" && cp scripts/*.{sh,py} "$tree/scripts")
    BOOTSTRAP=oci FROM=$place/base/oci BUILD_OPTIONS=--notest build "$tree" "$packages"
fi

image=$place/image-$(hash_of "${of_packages[@]}" "${of_code[@]}").sif
if [ ! -e "$image" ]; then
    find "$place" -maxdepth 1 -name 'image-*' -mmin +60 -delete # of earlier code; another tree's may be in use
    BOOTSTRAP=localimage FROM=$packages WHEELS=none build "$root" "$image"
fi
touch "$packages" "$image"
echo "$image"
