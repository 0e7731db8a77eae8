"""Runs pytest in the virtual machine: ``python -m tests.vm.kit.run [OPTIONS] [PYTEST'S ARGUMENTS]``.

The checkout is there under its own path, with what ``make setup`` made of it. Without arguments for pytest it runs the
tier: what stands in `TIER`.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from mesh.errors import EnvironmentLacks
from tests.vm.kit import disks, machine

TIER = (
    "-m", "vm or root",
    "tests/vm",
    # That the programs are compiled, pass this kernel's verifier, are attached and do what they are for.
    "tests/ebpf/test_features.py", "tests/ebpf/test_loader_selftest.py", "tests/ebpf/test_programs_driver.py",
    "tests/ebpf/test_capture.py", "tests/ebpf/test_arrival.py",
)  # fmt: skip
"""What ``make test-vm`` runs, as arguments of pytest."""
_RESULTS = disks.FOLDER / "results"
_SECONDS = 5400.0


def script(modules: list[str], commands: list[str], arguments: list[str]) -> str:
    """What the machine is to do.

    Args:
        modules: of the kernel, loaded first.
        commands: for bash, run first; if one fails, nothing is tested.
        arguments: pytest's; none, and only the commands run.
    """
    lines = ["set -eu", f"export BCC_KERNEL_SOURCE={disks.HEADERS} AMBIMESH_REQUIRE_ALL=1 PATH=$PWD/.venv/bin:$PATH"]
    lines.append("export NO_COLOR=1 TERM=dumb COLUMNS=120")
    lines.append('echo "vm: Linux $(uname -r), $(stat -f -c %T /sys/fs/cgroup), up $(cut -d" " -f1 /proc/uptime) s"')
    lines += [f"modprobe {shlex.quote(module)}" for module in modules]
    lines += commands
    if arguments:
        quoted = shlex.join([*arguments, "-p", "no:cacheprovider", "--durations=15", "--junit-xml"])
        lines.append(f"exec .venv/bin/python -m pytest {quoted} $RESULTS/junit.xml")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run what the command line says; returns the exit status: pytest's, or 1 when the machine failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.vm.kit.run", description=__doc__)
    parser.add_argument("--modprobe", action="append", default=[], metavar="MODULE", help="a kernel module to load")
    parser.add_argument("--command", action="append", default=[], metavar="BASH", help="run before pytest")
    parser.add_argument("--only-commands", action="store_true", help="run no pytest")
    parser.add_argument("--timeout", type=float, default=_SECONDS, help="seconds until it is killed (%(default).0f)")
    parser.add_argument("--results", type=Path, default=_RESULTS, help="a folder for logs and junit.xml (%(default)s)")
    options, arguments = parser.parse_known_args()
    arguments = [argument for argument in arguments if argument != "--"]

    def say(text: str) -> None:
        print(f"vm: {text}", flush=True)

    asked = [] if options.only_commands else arguments or list(TIER)
    try:
        text = script(options.modprobe, options.command, asked)
        outcome = machine.run(text, options.results, timeout=options.timeout, say=say)
    except EnvironmentLacks as error:
        print(f"vm: {error}", file=sys.stderr)
        return 1
    say(f"status {outcome.status} after {outcome.seconds:.0f} s; logs are in {outcome.results}")
    return outcome.status


if __name__ == "__main__":
    sys.exit(main())
