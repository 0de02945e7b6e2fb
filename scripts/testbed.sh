#!/usr/bin/env bash
# A miniature cluster on one Debian machine, for tests: hosts made of namespaces, each with an address and sshd.
#
#   scripts/testbed.sh install      # once, as root: Debian packages, and the hosts' root file system
#   scripts/testbed.sh up [N]       # N hosts (3); prints the ssh configuration to use
#   scripts/testbed.sh status       # hosts that are up
#   scripts/testbed.sh down [NAME]  # takes them away, or only those of that name
#   scripts/testbed.sh with KIND [COMMAND...]   # COMMAND (a shell) in the environment of a cluster made for it;
#                                               # KIND: hosts, slurm or grid5000
#   scripts/testbed.sh root         # prints the folder of the hosts' root file system
#
# Packages come from the sources that apt is configured with. The root file system is kept in
# ${XDG_CACHE_HOME:-~/.cache}/decentralizepy-testbed; another folder: DECENTRALIZEPY_TESTBED.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
version=3 # of the root file system: raise it when what make_root does changes
cache=${DECENTRALIZEPY_TESTBED:-${XDG_CACHE_HOME:-$HOME/.cache}/decentralizepy-testbed}

# What this machine needs: clients, what makes hosts, and sshd, which the tests of the SSH back-end start here for
# themselves. All servers of a miniature cluster run inside its hosts.
commands=(ip:iproute2 ssh:openssh-client sshd:openssh-server rsync:rsync mmdebstrap:mmdebstrap munged:munge
    sbatch:slurm-client)
# What the hosts need. Python is the distribution's own: EnOSlib's modules run on it.
packages=(openssh-server python3 rsync iproute2 iputils-ping procps sudo ca-certificates util-linux tar gzip
    munge slurmd slurmctld slurm-client uidmap squashfuse libseccomp2 libsqlite3-0)

fail() { echo "testbed: $*" >&2; exit 1; }

check_machine() {
    [ "$(id -u)" = 0 ] || fail "needs root"
    [ -r /etc/debian_version ] && command -v apt-get >/dev/null || fail "needs Debian"
}

install_commands() {
    local pair missing=()
    for pair in "${commands[@]}"; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    [ ${#missing[@]} = 0 ] && return
    echo "testbed: installing ${missing[*]}"
    local quietly=(-qq --no-install-recommends -o DPkg::Lock::Timeout=600 -o DPkg::Options::=--force-unsafe-io)
    without_services apt-get update -qq -o DPkg::Lock::Timeout=600
    DEBIAN_FRONTEND=noninteractive without_services apt-get install -y "${quietly[@]}" "${missing[@]}" >/dev/null
}

without_services() { # COMMAND...: packages that are installed start no daemon on this machine
    local policy=/usr/sbin/policy-rc.d
    if [ -e "$policy" ]; then "$@"; return; fi
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    local code=0
    "$@" || code=$?
    rm -f "$policy"
    return "$code"
}

suite() { . /etc/os-release; echo "${VERSION_CODENAME:?}"; }

root_name() { echo "$cache/root-$version-$(suite)-$(dpkg --print-architecture)"; }

sources() { # the apt sources of this machine, of its own release
    local ring=/usr/share/keyrings/debian-archive-keyring.gpg option=
    [ -r "$ring" ] && option="[signed-by=$ring] "
    apt-get indextargets --format "deb $option"'$(REPO_URI) $(RELEASE) $(COMPONENT)' \
        'Created-By: Packages' 'Origin: Debian' | grep -E " $(suite)(-updates|-security)? " | sort -u
}

make_root() {
    local root; root=$(root_name)
    [ -e "$root/etc/decentralizepy-testbed" ] && return
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock 9
    [ -e "$root/etc/decentralizepy-testbed" ] && return
    echo "testbed: making the hosts' root file system in $root (once)"
    rm -rf "$root" "$root.partial"
    local include; include=$(IFS=,; echo "${packages[*]}")
    [ -n "$(sources)" ] || fail "apt has no source named $(suite); see 'apt-get indextargets'"
    sources | mmdebstrap --quiet --variant=minbase --mode=root --format=directory \
        --aptopt='Apt::Install-Recommends "false"' --aptopt='Acquire::Check-Valid-Until "false"' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --include="$include" \
        --customize-hook='"'"$0"'" _customize "$1"' "$(suite)" "$root.partial" - \
        || fail "mmdebstrap failed"
    mv "$root.partial" "$root"
}

customize() { # ROOT: accounts, sshd, and what every host of a cluster has
    local root=$1
    rm -f "$root"/etc/ssh/ssh_host_* "$root"/etc/resolv.conf "$root"/etc/motd
    chroot "$root" useradd --create-home --shell /bin/bash --uid 1500 alice
    echo 'alice ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/alice"
    chmod 440 "$root/etc/sudoers.d/alice"
    printf '#!/bin/sh\nexec sudo -- "$@"\n' >"$root/usr/local/bin/sudo-g5k"
    chmod 755 "$root/usr/local/bin/sudo-g5k"
    # Found only where scripts/install_apptainer.sh has been called and its folder is visible in the hosts.
    ln -s /opt/decentralizepy/apptainer/wrap/{apptainer,singularity} "$root/usr/local/bin/"
    # A network without names: no look-ups, and no messages of the day, which would wait for them.
    cat >"$root/etc/ssh/sshd_config" <<'END'
Port 22
UseDNS no
UsePAM yes
PrintMotd no
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
MaxStartups 200
MaxSessions 200
AcceptEnv LANG LC_*
Subsystem sftp internal-sftp
END
    cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/" 2>/dev/null || true
    ln -sf /proc/self/mounts "$root/etc/mtab"
    mkdir -p "$root/run/sshd" "$root/.old"
    echo "$version" >"$root/etc/decentralizepy-testbed"
}

python() { # the checkout's own, where there is one
    local bin=$here/.venv/bin/python
    [ -x "$bin" ] || bin=${PYTHON:-python3}
    PYTHONPATH=$here exec "$bin" "$here/tests/cluster/$1.py" "${@:2}"
}

case ${1:-} in
    install) check_machine; install_commands; make_root ;;
    root) root_name ;;
    up | down | status) check_machine; python namespace_hosts "$@" ;;
    with) check_machine; python with_cluster "${@:2}" ;;
    _customize) customize "$2" ;;
    *) sed -n '2,14s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
