"""``ambimesh version``."""

from __future__ import annotations

import platform
from importlib.metadata import version as installed

from ambimesh import output
from ambimesh.commands.options import Output
from ambimesh.output import OutputFormat, say
from ebpf.layout import ABI_VERSION


def version(out: Output = OutputFormat.SHORT) -> None:
    """Show the versions of the program, of its kernel interface, and of what it runs on."""
    facts = collect()
    if out is not OutputFormat.SHORT:
        output.print_value(facts, out)
        return
    for name, value in facts.items():
        say(f"{name}: {value}")


def collect() -> dict[str, str]:
    """The versions by name."""
    return {
        "ambimesh": installed("ambimesh"),
        "eBPF interface": f"v{ABI_VERSION}",
        "Python": platform.python_version(),
        "kernel": platform.release(),
    }
