#!/usr/bin/env bash
# Builds the programs in Go that tests use (tests/tools/go.mod names them, go.sum has their hashes) into .build/bin.
# A second run does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$PWD/.build
want=$(cat tests/tools/go.mod tests/tools/go.sum | sha256sum | cut -d' ' -f1)
[[ -x $build/bin/h2spec && -f $build/stamps/tools && $(<"$build/stamps/tools") == "$want" ]] && exit 0
export PATH=$PATH:/usr/local/go/bin
if ! command -v go >/dev/null; then
    if [[ $EUID != 0 ]] || ! command -v apt-get >/dev/null; then
        echo "tools: Go is missing, which builds h2spec; as root run: apt-get install golang-go" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update && apt-get install -y --no-install-recommends golang-go; } >"$build/tools.log" 2>&1 ||
        { tail -n 20 "$build/tools.log" >&2; exit 1; }
fi
mkdir -p "$build/bin" "$build/stamps"
(cd tests/tools && GOBIN=$build/bin GOFLAGS=-mod=readonly go install github.com/summerwind/h2spec/cmd/h2spec)
printf '%s\n' "$want" >"$build/stamps/tools"
echo "tools: h2spec is in .build/bin"
