"""Compile, load, pin and attach: the one place that imports bcc, run as ``python -m ebpf.loader`` and then gone.

The request is one JSON object on standard input (``LoadRequest``). Maps that are pinned already are used again with
what they hold, links that exist get the new programs in place; so a replaced program misses no connection. Standard
error carries the compiler's and the verifier's words, standard output what is being done, line by line, and at last
``loaded`` or the error. bcc may crash on text it cannot compile; then the last line says over what.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ebpf import syscall
from ebpf.attachment import (
    CGROUP_HOOKS,
    POD_HOOK,
    SPLICE_HOOK,
    UNATTACHED_HOOKS,
    Hook,
    attach_to_cgroup,
    attach_to_sockets,
    replace_pin,
    update_pod_links,
)
from ebpf.fastpath.kernel_types import offset_macros
from ebpf.headers import find_headers
from ebpf.layout import ABI_VERSION, ABILITY_SPLICE, MAPS, Metadata
from ebpf.layout_check import check
from ebpf.loader_selftest import run_selftest
from ebpf.maps import PinnedMap
from ebpf.paths import PinPaths
from mesh.errors import EnvironmentLacks, MeshError

PROGRAMS = Path(__file__).resolve().parent / "programs"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequest:
    """What the child is told; paths as text."""

    bpffs: str
    node: str
    cgroup: str
    kernel_headers: str
    program_digest: str
    """Hexadecimal SHA-256 of the C text."""
    map_sizes: dict[str, int]

    def encode(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))


def run(request: LoadRequest) -> None:
    """Do all of it.

    Raises:
        EnvironmentLacks: no bcc, or the kernel or the compiler refused; details are on standard error.
        InternalError: the Python layout is not the header's.
    """
    paths = PinPaths(Path(request.bpffs), request.node)
    for folder in (paths.maps, paths.programs, paths.links, paths.pods):
        folder.mkdir(parents=True, exist_ok=True)
    os.environ["BCC_KERNEL_SOURCE"] = request.kernel_headers  # bcc reads it when it compiles
    bcc = _import_bcc()
    hooks = (*CGROUP_HOOKS, POD_HOOK, SPLICE_HOOK, *UNATTACHED_HOOKS)
    offsets = offset_macros()
    for source in dict.fromkeys(hook.source for hook in hooks):
        module = _compile(bcc, request, paths, source, offsets)
        _check_layout(bcc, module)
        for hook in hooks:
            if hook.source == source:
                _load(module, hook, paths)
    attach_to_sockets(paths)
    update_pod_links(paths)
    attach_to_cgroup(paths, Path(request.cgroup))
    abilities = _find_abilities(bcc, request, offsets)
    digest = bytes.fromhex(request.program_digest)
    with PinnedMap(paths, "metadata", ctypes.c_uint32, Metadata) as metadata:
        metadata.set(ctypes.c_uint32(0), Metadata(ABI_VERSION, abilities, type(Metadata().program_digest)(*digest)))


def _import_bcc() -> Any:
    try:
        import bcc
    except ImportError as error:
        raise EnvironmentLacks(
            f"cannot import bcc ({error}); install python3-bpfcc and let {sys.executable} see its bcc folder "
            "(the package `bcc` of PyPI is something else)"
        ) from error
    return bcc


def _compile(bcc: Any, request: LoadRequest, paths: PinPaths, source: str, offsets: list[str]) -> Any:
    _say(f"compiling {source} with the headers of {request.kernel_headers}")
    flags = [f"-I{PROGRAMS}", f'-DPIN_DIRECTORY="{paths.maps}/"']
    flags += [f"-DSIZE_{name.upper()}={size}" for name, size in request.map_sizes.items()]
    flags += offsets
    try:
        return bcc.BPF(src_file=str(PROGRAMS / source), cflags=flags)
    except Exception as error:
        raise EnvironmentLacks(f"failed compiling {source} with the headers of {request.kernel_headers}") from error


def _find_abilities(bcc: Any, request: LoadRequest, offsets: list[str]) -> int:
    """Try the splice out. What does not work is left out, and said on standard error."""
    _say("trying the splice out")
    try:
        run_selftest(bcc, offsets)
    except EnvironmentLacks as error:
        sys.stderr.write(f"the same-node splice stays off: {error}\n")
        return 0
    return ABILITY_SPLICE


def _load(module: Any, hook: Hook, paths: PinPaths) -> None:
    _say(f"loading {hook.function}")
    attach_type = -1 if hook.program_type == syscall.PROGRAM_SOCK_OPS else hook.attach_type
    try:
        function = module.load_func(hook.function, hook.program_type, attach_type=attach_type)
    except Exception as error:
        raise EnvironmentLacks(f"the kernel refused program {hook.function}: {error}") from error
    replace_pin(function.fd, paths.programs / hook.function)


def _check_layout(bcc: Any, module: Any) -> None:
    for name in MAPS:
        encoded = name.encode()
        check(name, "key", json.loads(bcc.lib.bpf_table_key_desc(module.module, encoded)))
        check(name, "value", json.loads(bcc.lib.bpf_table_leaf_desc(module.module, encoded)))


def main() -> int:
    """Serve one request from standard input; with the argument ``selftest``, only try the splice out."""
    try:
        if sys.argv[1:] == ["selftest"]:
            os.environ["BCC_KERNEL_SOURCE"] = str(find_headers())
            run_selftest(_import_bcc(), offset_macros())
            return 0
        run(LoadRequest(**json.load(sys.stdin)))
    except MeshError as error:
        _say(str(error))
        return 1
    _say("loaded")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line.replace("\n", " ") + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
