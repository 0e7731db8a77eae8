#!/bin/sh
# Builds the Helm that the chart is checked with: deploy/helm/tool/build.sh OUTPUT. It is a Go module, at the version that
# go.mod names; two minutes on two cores the first time, nothing when it is there.
set -eu
output=$(realpath -m "${1:?usage: build.sh OUTPUT}")
cd "$(dirname "$0")"
wanted=$(cat go.mod go.sum build.sh | sha256sum)
[ -x "$output" ] && [ "$(cat "$output.stamp" 2>/dev/null)" = "$wanted" ] && exit 0
go=${GO:-go}
command -v "$go" >/dev/null || {
    echo "build.sh: $go is not there: Helm is built from its Go module; install Go 1.26 or newer, or set GO" >&2
    exit 1
}
mkdir -p "$(dirname "$output")"
# Helm asks the toolchain for Kubernetes' version; what it was built against is not known to it otherwise.
CGO_ENABLED=0 "$go" build -mod=readonly -trimpath -o "$output.new" -ldflags "-s -w \
    -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=34" \
    helm.sh/helm/v3/cmd/helm
mv "$output.new" "$output"
printf '%s\n' "$wanted" >"$output.stamp"
