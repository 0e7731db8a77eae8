#!/usr/bin/env bash
# Brings a checkout to the point where everything runs: Debian packages, virtual environment, kernel headers for bcc,
# the static CNI plugin. Every step looks first whether it is needed, so a second run takes well under a second.
# "setup.sh e2e" installs what the nodes of a test cluster need, too, "setup.sh images" what images are built with, and
# "setup.sh vm" what a virtual machine is. "setup.sh list" names the packages that every checkout needs.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
    python3 python3-venv                     # Debian's own interpreter: python3-bpfcc belongs to it
    python3-bpfcc                            # compiles and loads the eBPF programs (bcc on PyPI is something else)
    "linux-headers-cloud-$(dpkg --print-architecture 2>/dev/null || echo amd64)" # what bcc compiles against
    bpftool iproute2 nftables conntrack      # looking at, and building, what the kernel holds
    containernetworking-plugins              # bridge and host-local: the head of the lab's CNI chain
    tcpdump                                  # what the inter-node link carries
    iperf3 curl                              # traffic
    openssl git                              # tests: another TLS peer, and which files are the project's
    nginx socat redis-tools                  # tests: ordinary programs on the same-node fast path (redis-tools: the server too)
    gcc libc6-dev                            # the CNI plugin, bcc's includes, the proxies' compiled modules
    python3-dev                              # the interpreter's headers, for these modules
    make util-linux procps
)
case ${1:-} in
    e2e)
        packages+=(
            containerd runc # what runs pods on the nodes of a test cluster; where systemd is, the machine's own stays off
            mmdebstrap      # Debian's part of the images
        ) ;;
    images) packages+=(debootstrap) ;; # Debian's part of the images, where there is no container engine
    vm)
        packages+=(
            qemu-system-x86 # runs a virtual machine for tests
            mmdebstrap      # its disk
            e2fsprogs
        ) ;;
    list) # for who makes a Debian of their own
        printf '%s\n' "${packages[@]}"
        exit
        ;;
esac
build=.build
stamps=$build/stamps
log=$build/setup.log
mkdir -p "$stamps"

say() { printf 'setup: %s\n' "$*"; }
die() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

# run NAME COMMAND...: a long step with its time; its output goes to the log, and is shown if it fails.
run() {
    local name=$1 started=$SECONDS
    shift
    say "$name ..."
    if ! "$@" >>"$log" 2>&1; then
        tail -n 30 "$log" >&2
        die "$name failed; the whole output is in $log"
    fi
    say "$name: done in $((SECONDS - started)) s"
}

# stamped NAME INPUTS-HASH: whether a step was done with these inputs.
stamped() { [[ -f $stamps/$1 && $(<"$stamps/$1") == "$2" ]]; }
stamp() { printf '%s\n' "$2" >"$stamps/$1"; }
hash_of() { sha256sum | cut -d' ' -f1; }

missing_packages() {
    local package state
    for package in "${packages[@]}"; do
        state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
        [[ $state == installed ]] || printf '%s\n' "$package"
    done
}

install_packages() {
    local missing
    command -v dpkg-query >/dev/null || die "dpkg-query not found: this runs on Debian 12 and its relatives"
    # One question for all; only when something is missing, one for each.
    if [[ $(dpkg-query -W -f='${db:Status-Status}\n' "${packages[@]}" 2>/dev/null | grep -cx installed) == "${#packages[@]}" ]]; then
        return
    fi
    mapfile -t missing < <(missing_packages)
    [[ ${#missing[@]} -gt 0 ]] || return 0
    [[ $EUID == 0 ]] || die "Debian packages are missing; as root run: apt-get install ${missing[*]}"
    command -v apt-get >/dev/null || die "apt-get not found; install these packages by hand: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    run "package lists" apt-get update
    # What brings a service along (nginx) is wanted as a program: it must not start, now or at the next boot.
    local policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    run "Debian packages: ${missing[*]}" apt-get install -y --no-install-recommends "${missing[@]}"
    local service
    for service in nginx containerd; do
        if [[ " ${missing[*]} " == *" $service "* && -e /etc/init.d/$service ]]; then
            run "$service not to start by itself" update-rc.d "$service" disable
        fi
    done
    if [[ " ${missing[*]} " == *" containerd "* ]] && command -v systemctl >/dev/null; then
        run "containerd not to start by itself" systemctl disable containerd
    fi
}

make_environment() {
    local want
    want=$({ cat requirements/dev.txt; /usr/bin/python3 -VV; pwd; } | hash_of)
    if ! stamped environment "$want" || [[ ! -x .venv/bin/python ]]; then
        rm -f "$stamps"/{environment,checkout}
        run "virtual environment .venv" /usr/bin/python3 -m venv --clear .venv
        run "Python packages of requirements/dev.txt" .venv/bin/python -m pip install \
            --disable-pip-version-check --no-input --require-hashes --only-binary :all: -r requirements/dev.txt
        stamp environment "$want"
    fi
    want=$({ cat pyproject.toml; pwd; } | hash_of)
    if ! stamped checkout "$want"; then
        run "this checkout into .venv" .venv/bin/python -m pip install \
            --disable-pip-version-check --no-input --no-deps --no-build-isolation -e .
        stamp checkout "$want"
    fi
}

# bcc is Debian's, for Debian's interpreter. A path entry that holds only its folder lets nothing else of Debian's in.
reach_bcc() {
    local site debian=/usr/lib/python3/dist-packages/bcc entry=$PWD/$build/debian
    [[ -d $debian ]] || die "$debian is missing although python3-bpfcc is installed; as root run: apt-get install --reinstall python3-bpfcc"
    mkdir -p "$entry"
    ln -sfn "$debian" "$entry/bcc"
    for site in .venv/lib/python3*/site-packages; do
        [[ -f $site/debian-bcc.pth && $(<"$site/debian-bcc.pth") == "$entry" ]] || printf '%s\n' "$entry" >"$site/debian-bcc.pth"
    done
}

merge_headers() {
    [[ -z ${BCC_KERNEL_SOURCE:-} ]] || return 0
    local want
    want=$({ printf '%s\n' /usr/src/linux-headers-*; cat ebpf/headers.py; } | hash_of)
    if ! stamped headers "$want" || [[ ! -d $build/kernel-headers ]]; then
        run "kernel headers for bcc" .venv/bin/python -m ebpf.headers "$build/kernel-headers"
        stamp headers "$want"
    fi
}

build_plugin() {
    local want
    want=$(cat cni/plugin/*.c cni/plugin/build.sh | hash_of)
    if ! stamped plugin "$want" || [[ ! -x $build/bin/ambimesh-cni ]]; then
        run "CNI plugin" sh cni/plugin/build.sh "$build/bin/ambimesh-cni"
        stamp plugin "$want"
    fi
}

# The proxies' hot modules, compiled by mypyc; they run the pure form where this is missing or out of date.
compile_modules() {
    local want
    want=$({ find mesh ebpf ztunnel waypoint -name '*.py' -print0 | sort -z | xargs -0 cat; cat scripts/compile_hot.py \
        pyproject.toml requirements/dev.txt; gcc --version; /usr/bin/python3 -VV; } | hash_of)
    if ! stamped compiled "$want" || [[ ! -f $build/compiled/manifest.json ]]; then
        run "the proxies' compiled modules" .venv/bin/python scripts/compile_hot.py "$build/compiled"
        stamp compiled "$want"
    fi
}

# Two runs at once would step on each other's toes: the second waits.
if command -v flock >/dev/null; then
    exec 9>"$build/setup.lock"
    flock 9
fi
started=$SECONDS
: >"$log"
install_packages
make_environment
reach_bcc
merge_headers
build_plugin
compile_modules
say "ready ($((SECONDS - started)) s)"
