#!/bin/sh
# Runs inside of an image's root: installs what the context beside this file names, and takes away what only that needed.
# Both the Containerfiles and scripts/image.py (with debootstrap) run it, so both make the same file system.
set -eu
context=$(dirname "$0")
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
home=/opt/ambimesh

apt-get update -qq
# shellcheck disable=SC2046 -- one word for each package
apt-get install -y -qq --no-install-recommends python3-venv $(cat "$context/packages.txt")

python3 -m venv "$home/venv"
# Wheels that were fetched outside, where they are; else from wherever pip is told to look.
if [ -d "$context/wheels" ]; then
    set -- --no-index --find-links "$context/wheels"
else
    set --
fi
"$home/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-compile --require-hashes \
    --only-binary :all: "$@" -r "$context/requirements.txt"
cp -R "$context/root/." /

if [ -e "$context/with-headers" ]; then
    # bcc is Debian's, for Debian's interpreter: reached by a path entry that holds nothing else.
    mkdir -p "$home/debian"
    ln -s /usr/lib/python3/dist-packages/bcc "$home/debian/bcc"
    for site in "$home"/venv/lib/python3*/site-packages; do echo "$home/debian" >"$site/debian-bcc.pth"; done
    PYTHONPATH=$home "$home/venv/bin/python" -m ebpf.headers /tmp/headers
    # The links of the merged folder become files, and the packages (with the compiler they want) go.
    cp -RL /tmp/headers "$home/kernel-headers" 2>/dev/null || true
    test -f "$home/kernel-headers/include/linux/kconfig.h"
    rm -rf /tmp/headers
    apt-get purge -y -qq 'linux-headers-*' 'linux-kbuild-*' 'linux-compiler-*'
fi

"$home/venv/bin/python" -m pip uninstall --quiet --yes pip setuptools 2>/dev/null || true
apt-get purge -y -qq python3-venv python3-pip-whl python3-setuptools-whl
apt-get autoremove -y -qq --purge
"$home/venv/bin/python" -m compileall -q "$home" || true
useradd --uid 1337 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin ambimesh
mkdir -p /etc/ambimesh /run/ambimesh
# What lies here now; the name and version of the image stand in one line.
# shellcheck disable=SC2046 -- two words
"$home/venv/bin/python" "$context/image_sbom.py" / $(cat "$context/image.txt") >"$home/sbom.cdx.json"
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* /tmp/* /var/cache/ldconfig
