"""Builds the programs of a cluster from Go modules, once per version: ``python -m tests.e2e.kit.build``.

One binary is all of Kubernetes and etcd, another is CoreDNS. They lie in the user's cache, outside of the checkout, in
a folder named by the version and by a hash of what they are built from; so a fresh clone finds them, and a change of a
version builds anew. The first build compiles some two thousand packages: four to five minutes on two cores, and three
gigabytes in Go's own cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import EnvironmentLacks
from tests.e2e.kit import toolchain, versions

SOURCES = Path(__file__).parent / "programs"
KUBERNETES_PROGRAMS = (
    "etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet",
)  # fmt: skip
_FLAGS = (
    *("-mod=readonly", "-trimpath", "-buildvcs=false"), "-tags=providerless,grpcnotrace", "-gcflags=all=-dwarf=false",
)  # fmt: skip
"""Nobody debugs them: without their debug information the compiler has a fifth less to do."""
_REMEDY = "make kubernetes"
_REPORT_SECONDS = 15.0
_SHOWN_LINES = 20

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Target:
    """A binary and the names it is called by."""

    name: str
    """The folder of its source, and the file it becomes."""
    version: str
    programs: tuple[str, ...]
    """Links to be made to it; none means that its own name is the program's."""
    linker_flags: str = "-s -w"

    @property
    def source(self) -> Path:
        """Where its ``main.go`` and its pins are."""
        return SOURCES / self.name

    @property
    def folder(self) -> Path:
        """Where it lies once built."""
        digest = hashlib.sha256(" ".join((*_FLAGS, self.linker_flags, *self.programs)).encode())
        for name in ("main.go", "go.mod", "go.sum"):
            digest.update((self.source / name).read_bytes())
        return cache_folder() / f"{self.name}-{self.version}-{digest.hexdigest()[:12]}"

    @property
    def built(self) -> bool:
        """Whether it is there, with its links: they are made last."""
        return all((self.folder / program).exists() for program in (self.name, *self.programs))


def _stamped_version(version: str) -> str:
    """Linker flags that make the programs say which version they are."""
    major, minor, _ = version.removeprefix("v").split(".")
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "archive"}
    return " ".join(["-s -w", *(f"-X k8s.io/component-base/version.{name}={value}" for name, value in values.items())])


KUBERNETES = Target(
    "kubernetes", versions.KUBERNETES, KUBERNETES_PROGRAMS, linker_flags=_stamped_version(versions.KUBERNETES)
)
COREDNS = Target("coredns", versions.COREDNS, ())
TARGETS = (KUBERNETES, COREDNS)


def cache_folder() -> Path:
    """Where the programs are kept: below ``XDG_CACHE_HOME``, which is ``~/.cache`` unless set."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "ambimesh" / "kubernetes"


def program(name: str) -> Path:
    """A program that has been built.

    Raises:
        EnvironmentLacks: it has not.
    """
    target = COREDNS if name == COREDNS.name else KUBERNETES
    if not target.built:
        raise EnvironmentLacks(f"{name} {target.version} has not been built; remedy: {_REMEDY}")
    return target.folder / name


def build(target: Target, say: Say) -> None:
    """Build a target unless it is there; of several at once the first builds, and the others wait for it.

    Raises:
        EnvironmentLacks: there is no Go and none could be installed, or the build failed; the message holds the end of
            the output.
    """
    if target.built:
        return
    with locked(cache_folder() / "lock"):
        if target.built:
            return
        go = toolchain.find_go(target.source, cache_folder(), say)
        target.folder.mkdir(parents=True, exist_ok=True)
        made = target.folder / f".{target.name}.{os.getpid()}"
        try:
            _compile(go, target, made, say)
            made.replace(target.folder / target.name)
        finally:
            made.unlink(missing_ok=True)
        for name in target.programs:
            link = target.folder / name
            link.unlink(missing_ok=True)
            link.symlink_to(target.name)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compile(go: str, target: Target, made: Path, say: Say) -> None:
    # The compiler is a short-lived process per package: collecting garbage less often costs it little memory.
    environment = {**os.environ, "CGO_ENABLED": "0", "GOGC": "400"}
    title = f"{target.name} {target.version}"
    started = time.monotonic()
    say(f"{title}: fetching Go modules ...")
    listed = subprocess.run(
        [go, "list", "-deps", *_FLAGS, "."],
        cwd=target.source,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        raise _failed(title, "its modules could not be fetched", listed.stderr.splitlines())
    packages = len(listed.stdout.splitlines())
    say(f"{title}: compiling up to {packages} packages ...")
    command = [go, "build", "-v", *_FLAGS, "-ldflags", target.linker_flags, "-o", str(made), "."]
    lines: list[str] = []
    reported = time.monotonic()
    with subprocess.Popen(
        command, cwd=target.source, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:  # one for each package that was compiled
            lines.append(line.rstrip())
            if time.monotonic() - reported >= _REPORT_SECONDS:
                reported = time.monotonic()
                say(f"{title}: {len(lines)} of {packages} packages, {reported - started:.0f} s")
    if process.returncode:
        raise _failed(title, "it could not be built", lines)
    say(f"{title}: built in {time.monotonic() - started:.0f} s, {made.stat().st_size / 1e6:.0f} MB")


def _failed(title: str, what: str, lines: list[str]) -> EnvironmentLacks:
    shown = "\n".join(f"  {line}" for line in lines[-_SHOWN_LINES:])
    return EnvironmentLacks(f"{title}: {what}; remedy: see what Go says, GOPROXY and the disk's space:\n{shown}")


def main() -> None:
    """Build what is missing of the targets named as arguments, or of all, and say what is done."""

    def say(text: str) -> None:
        print(f"kubernetes: {text}", flush=True)

    try:
        for target in TARGETS:
            if target.name in sys.argv[1:] or not sys.argv[1:]:
                build(target, say)
    except EnvironmentLacks as error:
        sys.exit(f"kubernetes: {error}")


if __name__ == "__main__":
    main()
