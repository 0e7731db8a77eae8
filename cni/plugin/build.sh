#!/bin/sh
# Builds the static CNI plugin: cni/plugin/build.sh OUTPUT
set -eu
output=${1:?usage: build.sh OUTPUT}
here=$(dirname "$0")
mkdir -p "$(dirname "$output")"
${CC:-gcc} -std=gnu11 -static -Os -s -Wall -Wextra -Werror -fstack-protector-strong -D_FORTIFY_SOURCE=2 \
	-o "$output.new" "$here/ambimesh-cni.c"
mv "$output.new" "$output"
