"""Makes ``.build/vagrant``, what the machines of the Vagrant lab are provisioned from: ``make vagrant-files``, as root.

Kubernetes and CoreDNS are those that the tests build from their Go modules (``tests/e2e/kit``), images those that
``scripts/image.py`` makes, certificates are made here, the ``ambimesh`` command comes as wheels: the machines fetch
Debian packages and nothing else. What is there is kept; ``--fresh`` makes certificates anew.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts import image  # noqa: E402 -- found by the line above
from tests.e2e.kit import build, pki  # noqa: E402

FOLDER = ROOT / ".build" / "vagrant"
CONTROL = "192.168.56.10"
MACHINES = ("control", "worker1", "worker2")
_API_NAMES = (
    "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost",
    "127.0.0.1", "10.96.0.1", CONTROL,
)  # fmt: skip


def make_pki(folder: Path) -> None:
    """Certificates and kubeconfigs of a cluster of these machines."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = pki.Authority(folder / "made")
    server = authority.server("kube-apiserver", _API_NAMES)
    kubelets = authority.client("kube-apiserver-kubelet-client", [pki.ADMINISTRATORS])
    private, public = authority.signing_key("service-accounts")
    for name, source in (
        ("ca.crt", authority.certificate),
        ("kube-apiserver.crt", server.certificate),
        ("kube-apiserver.key", server.key),
        ("kube-apiserver-kubelet-client.crt", kubelets.certificate),
        ("kube-apiserver-kubelet-client.key", kubelets.key),
        ("service-accounts.key", private),
        ("service-accounts.pub", public),
    ):
        shutil.copy(source, folder / name)
    users = {name: (f"system:node:{name}", ["system:nodes"]) for name in MACHINES}
    users |= {name: (f"system:{name}", []) for name in ("kube-controller-manager", "kube-scheduler")}
    users |= {"kube-proxy": ("system:kube-proxy", []), "admin": ("admin", [pki.ADMINISTRATORS])}
    for name, (user, groups) in users.items():
        pair = authority.client(user, groups)
        text = pki.kubeconfig(f"https://{CONTROL}:6443", authority.certificate, pair)
        pki.write_private(folder / f"{name}.kubeconfig", text)
    shutil.rmtree(folder / "made")


def make_images(folder: Path) -> None:
    """The mesh's images, CoreDNS and the container that holds a pod's namespaces."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in image.components():
        archive = image.FOLDER / f"ambimesh-{name}.tar"
        if not archive.exists():
            subprocess.run([sys.executable, str(ROOT / "scripts" / "image.py"), "build", name], check=True)
        shutil.copy(archive, folder)
    root = folder / "root"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    subprocess.run(["gcc", "-static", "-Os", "-s", "-o", root / "pause", ROOT / "vagrant" / "pause.c"], check=True)
    image.pack(root, "localhost/pause:1", {"Entrypoint": ["/pause"], "User": "65535:65535"}, folder / "pause.tar")
    (root / "pause").unlink()
    shutil.copy(build.program("coredns"), root / "coredns")
    image.pack(root, "localhost/coredns:1", {"Entrypoint": ["/coredns"]}, folder / "coredns.tar")
    shutil.rmtree(root)


def make_wheels(folder: Path) -> None:
    """The command with all it needs."""
    shutil.rmtree(folder, ignore_errors=True)
    pip = [sys.executable, "-m", "pip"]
    quiet = ["--quiet", "--disable-pip-version-check"]
    lock = str(ROOT / "requirements" / "runtime.txt")
    fetch = [*pip, "download", *quiet, "--require-hashes", "--only-binary", ":all:", "-d", str(folder), "-r", lock]
    subprocess.run(fetch, check=True)
    own = [*pip, "wheel", *quiet, "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)]
    subprocess.run(own, check=True)


def main() -> int:
    """Make everything; returns the exit status."""
    parser = argparse.ArgumentParser(description="Make what the Vagrant lab is provisioned from.")
    parser.add_argument("--fresh", action="store_true", help="make certificates anew")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default %(default)s")
    options = parser.parse_args()
    folder: Path = options.folder

    def say(text: str) -> None:
        sys.stdout.write(f"vagrant: {text}\n")
        sys.stdout.flush()

    for target in build.TARGETS:
        build.build(target, say)
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    shutil.copy(build.program("kubectl").resolve(), folder / "bin" / "kubernetes")
    if options.fresh or not (folder / "pki" / "admin.kubeconfig").exists():
        shutil.rmtree(folder / "pki", ignore_errors=True)
        make_pki(folder / "pki")
    make_wheels(folder / "wheels")
    make_images(folder / "images")
    (folder / "manifests").mkdir(exist_ok=True)
    for name in ("coredns.yaml", "demo.yaml"):
        shutil.copy(ROOT / "vagrant" / name, folder / "manifests")
    say(f"{folder} is complete; go on with: cd vagrant && vagrant up")
    return 0


if __name__ == "__main__":
    sys.exit(main())
