#!/usr/bin/env bash
# Install Apptainer on Debian 12 (amd64, as root) into a folder of its own.
#
#   scripts/install_apptainer.sh            # into /opt/decentralizepy/apptainer
#   scripts/install_apptainer.sh PREFIX
#
# Debian 12 has no package of Apptainer. The one of unstable needs a newer libc, so both come from newer suites of
# this machine's own mirror and are unpacked into PREFIX; nothing of them is installed. The tools that Apptainer calls
# (mksquashfs, newuidmap, ...) are installed as Debian 12 packages. Commands: PREFIX/wrap/apptainer and .../singularity.
#
# Where both commands work already, this ends at once. MIRROR overrides the mirror of apt's configuration.
set -euo pipefail

prefix=${1:-/opt/decentralizepy/apptainer}
layout=3 # of what is made below: raise it to have older installations replaced
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
tools=(patchelf squashfs-tools fuse3 squashfuse uidmap debootstrap libseccomp2 libsqlite3-0)

fail() { echo "install_apptainer: $*" >&2; exit 2; }

complete() {
    [ "$(cat "$prefix/layout" 2>/dev/null)" = "$layout" ] \
        && "$prefix/wrap/apptainer" --version >/dev/null 2>&1 && "$prefix/wrap/singularity" --version >/dev/null 2>&1
}

if complete; then
    echo "$prefix/wrap/apptainer: $("$prefix/wrap/apptainer" --version)"
    exit 0
fi
. /etc/os-release
[ "${ID:-}" = debian ] && [ "${VERSION_ID:-}" = 12 ] || fail "this needs Debian 12; elsewhere, install apptainer or singularity-container from your distribution"
[ "$(dpkg --print-architecture)" = amd64 ] || fail "this needs an amd64 machine"
[ "$(id -u)" = 0 ] || fail "this needs root"
case $prefix in /*) ;; *) fail "PREFIX must be an absolute path: $prefix" ;; esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$(dirname "$prefix")"
exec 9>"$(dirname "$prefix")/.$(basename "$prefix").lock"
flock 9 # two at once: the second finds the work done
complete && exit 0

mirror=${MIRROR:-$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -m1 '/debian/\?$' || true)}
[ -n "$mirror" ] || fail "apt's configuration names no Debian mirror; set MIRROR"

missing=()
for tool in "${tools[@]}"; do
    dpkg-query -W -f '${Status}\n' "$tool" 2>/dev/null | grep -q 'ok installed' || missing+=("$tool")
done
if [ ${#missing[@]} -gt 0 ]; then
    install=(apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends "${missing[@]}")
    "${install[@]}" >"$work/apt.log" 2>&1 || { apt-get -o DPkg::Lock::Timeout=300 update -q >>"$work/apt.log" 2>&1
        "${install[@]}" >>"$work/apt.log" 2>&1; } || { cat "$work/apt.log" >&2; fail "apt-get install ${missing[*]} failed"; }
fi

# A package list of our own beside the machine's: its sources and its state stay as they are.
cat >"$work/sources.list" <<END
deb [signed-by=$keyring] $mirror trixie main
deb [signed-by=$keyring check-valid-until=no] $mirror sid main
END
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/debs"
: >"$work/status"
apt=(apt-get -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferencesparts=/dev/null
    -o "Dir::State::lists=$work/lists" -o "Dir::State::status=$work/status" -o "Dir::Cache=$work/cache"
    -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=3)
"${apt[@]}" update -qq
(cd "$work/debs" && "${apt[@]}" download -q apptainer/sid libc6/trixie libseccomp2/trixie libsqlite3-0/trixie >/dev/null)
for package in apptainer libc6 libseccomp2 libsqlite3-0; do
    dpkg-deb -x "$work"/debs/${package}_*.deb "$work/$package"
done

made=$work/prefix
lib=usr/lib/x86_64-linux-gnu
mkdir -p "$made/libc" "$made/wrap"
cp -a "$work/apptainer/usr/." "$made/"
for folder in etc var; do
    mkdir -p "$made/$folder"
    [ ! -d "$work/apptainer/$folder" ] || cp -a "$work/apptainer/$folder/." "$made/$folder/"
    ln -sfn "../$folder" "$made/lib/$folder" # the starter takes PREFIX/lib for its prefix
done
cp -aL "$work/libc6/$lib"/{ld-linux-x86-64.so.2,libc.so.6,libm.so.6,libresolv.so.2,libpthread.so.0,libdl.so.2} "$made/libc/"
cp -aL "$work/libc6/$lib"/libnss_*.so.2 "$made/libc/"
cp -aL "$work/libseccomp2/$lib/libseccomp.so.2" "$work/libsqlite3-0/$lib/libsqlite3.so.0" "$made/libc/"
for binary in bin/apptainer lib/x86_64-linux-gnu/apptainer/bin/starter; do
    # rpath, not runpath: only that also holds for the libraries' own libraries
    patchelf --set-interpreter "$prefix/libc/ld-linux-x86-64.so.2" --force-rpath --set-rpath "$prefix/libc" "$made/$binary"
done
ln -sfn apptainer "$made/bin/singularity"

# The default compression of images takes ten times as long and saves nothing. A root without CAP_SYS_RESOURCE (bit 24)
# must not ask for it: builds and starts heed this variable, the unpacking of images only what is configured below.
cat >"$made/wrap/apptainer" <<END
#!/bin/sh
case \$(sed -n 's/^CapBnd:.*\(.\)......\$/\1/p' /proc/self/status) in
    [02468ace]) export APPTAINER_DROP_CAPS="\${APPTAINER_DROP_CAPS:-CAP_SYS_RESOURCE}" ;;
esac
export APPTAINER_MKSQUASHFS_ARGS="\${APPTAINER_MKSQUASHFS_ARGS:--comp zstd -Xcompression-level 3}"
exec $prefix/bin/apptainer "\$@"
END
chmod 755 "$made/wrap/apptainer"
ln -sfn apptainer "$made/wrap/singularity"
rm -rf "$prefix"
cp -a "$made" "$prefix" # not mv: TMPDIR may be another disk
chmod 755 "$prefix"
without_resource() { # whether this root lacks CAP_SYS_RESOURCE, bit 24, as in some virtual machines
    case $(sed -n 's/^CapBnd:.*\(.\)......$/\1/p' /proc/self/status) in [02468ace]) return 0 ;; esac
    return 1
}
if without_resource; then
    # Apptainer gives root all capabilities unless told which; asking for one that is not there is an error.
    all=$("$prefix/bin/apptainer" capability avail | grep -o '^CAP_[A-Z_]*')
    sed -i 's/^root default capabilities = .*/root default capabilities = file/' "$prefix/etc/apptainer/apptainer.conf"
    "$prefix/bin/apptainer" capability add --user root "$(grep -v SYS_RESOURCE <<<"$all" | paste -sd,)" 2>/dev/null
fi
echo "$layout" >"$prefix/layout"
complete || fail "$prefix/wrap/apptainer does not work: $("$prefix/wrap/apptainer" --version 2>&1)"
echo "$prefix/wrap/apptainer: $("$prefix/wrap/apptainer" --version)"
