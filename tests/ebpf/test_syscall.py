"""What errno of bpf(2) means."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ebpf import syscall
from mesh.errors import ConfigurationError, EnvironmentLacks, InternalError, MeshError


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (errno.EPERM, EnvironmentLacks, "CAP_BPF"),
        (errno.E2BIG, ConfigurationError, "full"),
        (errno.ENOSPC, ConfigurationError, "full"),
        (errno.ENOMEM, EnvironmentLacks, "memory"),
        (errno.ENOENT, EnvironmentLacks, "loaded"),
        (errno.EINVAL, EnvironmentLacks, "ambimesh check"),
        (errno.EBADF, InternalError, "EBADF"),
        (9999, InternalError, "9999"),
    ],
)
def test_errors_name_what_was_tried_and_the_likely_cause(code: int, kind: type[MeshError], words: str) -> None:
    error = syscall.translate(code, "writing map pods")
    assert type(error) is kind
    assert str(error).startswith("writing map pods: ")
    assert words in str(error)


def test_fail_keeps_the_system_error_as_cause() -> None:
    with pytest.raises(EnvironmentLacks) as caught:
        syscall.fail(errno.EPERM, "attaching")
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EPERM


@pytest.mark.root
def test_a_pin_that_is_not_there(tmp_path: Path) -> None:
    assert syscall.open_pin(tmp_path / "nothing") is None
    with pytest.raises(EnvironmentLacks, match="nothing"):
        syscall.require_pin(tmp_path / "nothing")
