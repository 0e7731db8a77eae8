#!/usr/bin/env bash
# Installs the ambimesh command on this machine, and with it the mesh into its cluster.
set -euo pipefail
files=${FILES:-/vagrant/files}
export DEBIAN_FRONTEND=noninteractive KUBECONFIG=/root/.kube/config

apt-get install -y -qq --no-install-recommends python3 python3-venv >/dev/null
python3 -m venv /opt/ambimesh-command
/opt/ambimesh-command/bin/python -m pip install --quiet --disable-pip-version-check --no-index \
    --find-links "$files/wheels" ambimesh
ln -sfn /opt/ambimesh-command/bin/ambimesh /usr/local/bin/ambimesh
ambimesh version
[[ -d /run/systemd/system ]] || exit 0
ambimesh install --set images.pullPolicy=Never
ambimesh check --cluster
