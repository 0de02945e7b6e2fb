#!/usr/bin/env bash
# Make a base for compute_container.def from this machine's own Debian mirror, so that images are built without a
# registry: a small Debian 12 with Python (about 40 s, once).
#
#   scripts/container_base.sh FOLDER        # as root, on Debian or Ubuntu
#
# FOLDER then holds the same root file system in two forms:
#
#   make BOOTSTRAP=oci FROM=FOLDER/oci         # an OCI image layout
#   make BOOTSTRAP=localimage FROM=FOLDER/root      # a folder
#
# What is there already is kept. MIRROR and SUITE override the mirror of apt's configuration and bookworm.
set -euo pipefail

[ $# = 1 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
folder=$1
suite=${SUITE:-bookworm}
layout="1 $suite" # of what is made below: raise it to have older bases replaced
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

fail() { echo "container_base: $*" >&2; exit 2; }

complete() { [ "$(cat "$folder/layout" 2>/dev/null)" = "$layout" ]; }

complete && exit 0
[ "$(id -u)" = 0 ] || fail "this needs root"
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
exec 9>"$folder/.lock"
flock 9 # two at once: the second finds the work done
complete && exit 0

mirror=${MIRROR:-$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -m1 '/debian/\?$' || true)}
[ -n "$mirror" ] || fail "apt's configuration names no Debian mirror; set MIRROR"
signed=
[ ! -r "$keyring" ] || signed="[signed-by=$keyring] "
if ! command -v mmdebstrap >/dev/null; then
    apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends mmdebstrap >/dev/null \
        || fail "apt-get install mmdebstrap failed (apt-get update first?)"
fi
# The modes unshare and fakeroot would work without root, but apt's own trust store may be for root's eyes only.
rm -rf "$folder/layout" "$folder/root" "$folder/oci" "$folder/root.tar"
mmdebstrap --quiet --mode=root --variant=minbase \
    --include=python3,python3-venv,ca-certificates \
    --aptopt='Apt::Install-Recommends "false"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    "$suite" "$folder/root.tar" "deb $signed$mirror $suite main" || fail "mmdebstrap failed"
mkdir "$folder/root"
tar --extract --numeric-owner --file "$folder/root.tar" --directory "$folder/root" --exclude './dev/*'
python3 "$here/oci_layout.py" "$folder/root.tar" "$folder/oci" base
rm "$folder/root.tar"
echo "$layout" >"$folder/layout"
