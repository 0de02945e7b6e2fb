#!/usr/bin/env bash
# Installs headless Chromium on Debian as root, in which the tests look at the report page; quick when it is there.
set -euo pipefail

command -v chromium >/dev/null && exit
[ "$(id -u)" = 0 ] && [ -r /etc/debian_version ] || { echo "installing chromium needs root on Debian" >&2; exit 3; }
echo "installing chromium (once)"
quietly=(-qq --no-install-recommends -o DPkg::Lock::Timeout=600 -o DPkg::Options::=--force-unsafe-io)
apt-get update -qq -o DPkg::Lock::Timeout=600
DEBIAN_FRONTEND=noninteractive apt-get install -y "${quietly[@]}" chromium fonts-dejavu-core >/dev/null
