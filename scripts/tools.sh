#!/usr/bin/env bash
# Builds the programs in Go that tests use (tests/tools/go.mod names them, go.sum has their hashes) into .build/bin.
# A second run does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$PWD/.build
want=$(cat tests/tools/go.mod tests/tools/go.sum | sha256sum | cut -d' ' -f1)
[[ -x $build/bin/h2spec && -f $build/stamps/tools && $(<"$build/stamps/tools") == "$want" ]] && exit 0
go=$(.venv/bin/python - <<'PYTHON'
import sys
from pathlib import Path

from tests.e2e.kit.build import cache_folder
from tests.e2e.kit.toolchain import find_go

print(find_go(Path("tests/tools"), cache_folder(), lambda text: print(f"tools: {text}", file=sys.stderr)))
PYTHON
)
mkdir -p "$build/bin" "$build/stamps"
(cd tests/tools && GOBIN=$build/bin GOFLAGS=-mod=readonly "$go" install github.com/summerwind/h2spec/cmd/h2spec)
printf '%s\n' "$want" >"$build/stamps/tools"
echo "tools: h2spec is in .build/bin"
