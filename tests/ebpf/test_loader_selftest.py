"""The loader's self-test, in a child as it runs there: bcc and its compiler do not belong in this process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ebpf.fastpath.kernel_types import offset_macros
from ebpf.headers import find_headers
from ebpf.loader_selftest import run_selftest
from mesh.errors import EnvironmentLacks
from mesh.testing.actors import Actor

pytestmark = pytest.mark.root

OWN_CGROUP = Path("/sys/fs/cgroup/unified") if Path("/sys/fs/cgroup/unified").exists() else Path("/sys/fs/cgroup")


def verdict(flags: list[str]) -> str:
    """What it says of this kernel, or of one whose fields stand elsewhere."""
    os.environ["BCC_KERNEL_SOURCE"] = str(find_headers())
    import bcc

    try:
        run_selftest(bcc, flags)
    except EnvironmentLacks as error:
        return str(error)
    return "fine"


def run(flags: list[str]) -> str:
    path = Path("/proc/self/cgroup").read_text(encoding="ascii").rpartition("::")[2].strip().lstrip("/")
    with Actor(OWN_CGROUP / path, None, verdict, flags) as actor:
        said: str = actor.join()
    return said


def test_this_kernel_is_fine() -> None:
    assert run(offset_macros()) == "fine"


@pytest.mark.parametrize(
    "field",
    [
        *("COOKIE", "RMEM_ALLOC", "WRITE_SEQ", "COPIED_SEQ", "BYTES_ACKED", "SND_UNA"),
        *("FILE_FLAGS", "FILE_SETS", "ITEM_LINK", "ITEM_EVENTS"),
    ],
)
def test_a_field_that_holds_something_else_switches_the_splice_off(field: str) -> None:
    macros = [macro for macro in offset_macros() if not macro.startswith(f"-DOFFSET_{field}=")]
    taken_for = {"COOKIE": "RMEM_ALLOC", "RMEM_ALLOC": "RCVLOWAT", "ITEM_EVENTS": "SOCKET_FILE"}.get(field, "COOKIE")
    wrong = next(macro.partition("=")[2] for macro in offset_macros() if macro.startswith(f"-DOFFSET_{taken_for}="))
    assert run([*macros, f"-DOFFSET_{field}={wrong}"]) != "fine"


def test_a_kernel_that_does_not_tell_of_epoll_sets_has_no_splice() -> None:
    assert "epoll" in run([macro for macro in offset_macros() if "_ITEM_" not in macro and "_SETS=" not in macro])
