import os
from pathlib import Path

import pytest

from cni.agent.sandboxes import Sandbox, SandboxRegister
from mesh.errors import EnvironmentLacks, InvalidValue


def a_sandbox(path: Path, **changes: object) -> Sandbox:
    facts = {
        "container_id": "c1",
        "netns": str(path),
        "inode": path.stat().st_ino if path.exists() else 0,
        "cookie": 5,
        "namespace": "shop",
        "name": "client",
        "addresses": ("10.244.1.7",),
    }
    return Sandbox(**(facts | changes))  # type: ignore[arg-type]


def test_records_outlive_the_agent(tmp_path: Path) -> None:
    place = tmp_path / "netns"
    place.touch()
    register = SandboxRegister(tmp_path / "state")
    first, second = a_sandbox(place), a_sandbox(place, container_id="c2")
    register.remember("u1", first)
    register.remember("u1", second)
    register.remember("u2", first)
    register.forget("u2")
    register.forget("u2")
    again = SandboxRegister(tmp_path / "state")
    assert dict(again.items()) == {"u1": second}
    assert again.find("u2") is None
    assert os.stat(tmp_path / "state").st_mode & 0o077 == 0


def test_a_sandbox_lives_while_its_path_leads_to_the_same_namespace(tmp_path: Path) -> None:
    place = tmp_path / "netns"
    place.touch()
    register = SandboxRegister(tmp_path / "state")
    register.remember("u1", a_sandbox(place))
    register.remember("u2", a_sandbox(place, inode=1))
    assert register.living() == {"u1"}
    place.unlink()
    assert register.living() == frozenset()


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"\xff", b'{"container_id": 5}', b"x" * 100000])
def test_a_record_that_cannot_be_read_is_dropped(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "u1.json").write_bytes(content)
    assert SandboxRegister(tmp_path).find("u1") is None
    assert not (tmp_path / "u1.json").exists()


def test_a_uid_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    register = SandboxRegister(tmp_path / "state")
    with pytest.raises(InvalidValue):
        register.remember("../u1", a_sandbox(tmp_path))
    assert os.listdir(tmp_path / "state") == []


def test_a_state_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentLacks, match="state folder"):
        SandboxRegister(tmp_path / "file")
