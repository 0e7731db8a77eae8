"""The Vagrant lab's scripts, run in a Debian root of their own; ``make vagrant-files`` has made what they install."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import image
from scripts.vagrant_files import FOLDER

pytestmark = [pytest.mark.vagrant]

VAGRANT = image.ROOT / "vagrant"
NODE = ("control", "127.0.0.1", "10.244.0.0/24", "10.244.1.0/24=192.168.56.11,10.244.2.0/24=192.168.56.12")


class Machine:
    """A root in which commands run, in mount and network namespaces of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, command: str, *, network: bool = True) -> subprocess.CompletedProcess[str]:
        mounts = f"mount -t proc proc {self.root}/proc && mount --rbind /dev {self.root}/dev"
        spaces = ["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
        if not network:
            spaces.append("--net")
            mounts += " && ip link set lo up"
        inside = f"{mounts} && exec chroot {self.root} bash -c {shlex.quote(command)}"
        return subprocess.run(["unshare", *spaces, "bash", "-c", inside], capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    base = image.make_base(image.FOLDER)
    root = tmp_path_factory.mktemp("vagrant") / "root"
    subprocess.run(["cp", "-a", str(base), str(root)], check=True)
    (root / "files").mkdir()
    for part in ("bin", "pki", "wheels", "manifests"):  # images are loaded where containerd runs
        subprocess.run(["cp", "-a", str(FOLDER / part), str(root / "files")], check=True)
    subprocess.run(["cp", "-a", str(VAGRANT / "provision"), str(root / "provision")], check=True)
    made = Machine(root)
    with image._as_this_machine(root):
        ran = made.run(f"FILES=/files /provision/node.sh {' '.join(NODE)}")
        assert ran.returncode == 0, ran.stdout + ran.stderr
        ran = made.run("FILES=/files bash -x /provision/control.sh 127.0.0.1")
        assert ran.returncode == 0, ran.stdout + ran.stderr
        ran = made.run("FILES=/files bash -x /provision/mesh.sh")
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert "ambimesh: " in ran.stdout
    yield made
    shutil.rmtree(root)


def test_the_vagrantfile_is_valid() -> None:
    ran = subprocess.run(["vagrant", "validate", "--ignore-provider"], cwd=VAGRANT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_units_are_sound_and_enabled(machine: Machine) -> None:
    units = {path.name for path in (machine.root / "etc/systemd/system").glob("*.service")}
    assert units == {
        "etcd.service", "kube-apiserver.service", "kube-controller-manager.service", "kube-scheduler.service",
        "kubelet.service", "kube-proxy.service", "pod-routes.service",
    }  # fmt: skip
    enabled = {path.name for path in (machine.root / "etc/systemd/system/multi-user.target.wants").glob("*")}
    assert units <= enabled
    ran = machine.run(f"systemd-analyze verify {' '.join('/etc/systemd/system/' + unit for unit in sorted(units))}")
    assert ran.returncode == 0, ran.stderr


def test_the_settings_are_ones_that_programs_take(machine: Machine) -> None:
    checks = (
        "containerd config dump >/dev/null",
        "python3 -m json.tool /etc/cni/net.d/10-bridge.conflist >/dev/null",
        "sh -n /usr/local/sbin/pod-routes && grep -c 'ip route replace' /usr/local/sbin/pod-routes",
        "for each in bridge host-local portmap; do test -x /opt/cni/bin/$each; done",
        "ambimesh install --help >/dev/null",
    )
    for check in checks:
        ran = machine.run(check)
        assert ran.returncode == 0, f"{check}: {ran.stdout}{ran.stderr}"


def _command(machine: Machine, unit: str) -> str:
    text = (machine.root / f"etc/systemd/system/{unit}.service").read_text()
    found = re.search(r"^ExecStart=(.*)$", text, re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_control_plane_starts_by_its_units_command_lines(machine: Machine) -> None:
    """Without network but loopback: etcd, the API server, and everybody's credentials, as the units have them."""
    script = f"""
        {_command(machine, "etcd")} >/var/log/etcd.log 2>&1 &
        {_command(machine, "kube-apiserver")} >/var/log/apiserver.log 2>&1 &
        export KUBECONFIG=/root/.kube/config
        cd /etc/kubernetes
        sed -i s/192.168.56.10/127.0.0.1/ $KUBECONFIG *.kubeconfig pki/*.kubeconfig
        for _ in $(seq 120); do kubectl get --raw /readyz >/dev/null 2>&1 && break; sleep 1; done
        set -e
        kubectl get --raw /readyz
        kubectl apply -f /files/manifests/coredns.yaml
        kubectl apply -f /files/manifests/demo.yaml
        ambimesh install --dry-run >/dev/null
        kubectl --kubeconfig kubelet.kubeconfig auth can-i create nodes
        kubectl --kubeconfig kube-proxy.kubeconfig auth can-i list endpointslices.discovery.k8s.io
        for each in kube-controller-manager kube-scheduler; do
            kubectl --kubeconfig pki/$each.kubeconfig auth can-i update leases.coordination.k8s.io -n kube-system
        done
    """
    started = time.monotonic()
    ran = machine.run(script, network=False)
    log = (machine.root / "var/log/apiserver.log").read_text()[-3000:]
    assert ran.returncode == 0, f"after {time.monotonic() - started:.0f} s: {ran.stdout}{ran.stderr}\n{log}"
    assert ran.stdout.count("yes") == 4
