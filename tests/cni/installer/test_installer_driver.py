"""The installer on real folders: what is installed, kept, repaired, refused and removed."""

import errno
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from cni.installer import driver
from cni.installer.__main__ import run
from cni.installer.driver import Installation, Look, install_once, keep_installed, uninstall_once
from mesh.errors import ConfigurationError, EnvironmentLacks

LIST = {"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge", "odd": 1}]}
CONF = {"cniVersion": "0.4.0", "name": "net", "type": "bridge", "odd": 1}


@pytest.fixture
def place(tmp_path: Path) -> Installation:
    (tmp_path / "net.d").mkdir()
    (tmp_path / "built").write_bytes(b"the plugin")
    return Installation(
        net_directory=tmp_path / "net.d",
        binary_directory=tmp_path / "bin",
        binary=tmp_path / "built",
        agent_socket=Path("/run/a.sock"),
    )


def write(place: Installation, name: str, document: Any) -> Path:
    path = place.net_directory / name
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def types(path: Path) -> list[str]:
    return [plugin["type"] for plugin in json.loads(path.read_text())["plugins"]]


def names(place: Installation) -> list[str]:
    return sorted(entry.name for entry in place.net_directory.iterdir())


def test_the_first_list_gets_the_entry_and_keeps_its_mode(place: Installation) -> None:
    first = write(place, "10-net.conflist", LIST)
    second = write(place, "20-net.conflist", LIST)
    first.chmod(0o640)
    assert install_once(place) == first
    assert types(first) == ["bridge", "ambimesh-cni"]
    assert first.stat().st_mode & 0o777 == 0o640
    assert json.loads(second.read_text()) == LIST
    assert names(place) == ["10-net.conflist", "20-net.conflist"]
    binary = place.binary_directory / "ambimesh-cni"
    assert (binary.read_bytes(), binary.stat().st_mode & 0o777) == (b"the plugin", 0o755)


def test_a_second_time_nothing_is_written(place: Installation) -> None:
    path = write(place, "10-net.conflist", LIST)
    install_once(place)
    before = [entry.stat() for entry in (path, place.binary_directory / "ambimesh-cni")]
    assert install_once(place) == path
    after = [entry.stat() for entry in (path, place.binary_directory / "ambimesh-cni")]
    assert [(entry.st_ino, entry.st_mtime_ns) for entry in before] == [(e.st_ino, e.st_mtime_ns) for e in after]


def test_a_conf_becomes_a_list_of_the_same_mode(place: Installation) -> None:
    write(place, "10-net.conf", CONF).chmod(0o600)
    made = install_once(place)
    assert made == place.net_directory / "10-net.conflist"
    assert made.stat().st_mode & 0o777 == 0o600
    assert names(place) == ["10-net.conflist"]
    assert json.loads(made.read_text())["plugins"][0] == {"type": "bridge", "odd": 1}


def test_a_conf_that_comes_back_is_wrapped_again(place: Installation) -> None:
    write(place, "10-net.conf", CONF)
    install_once(place)
    write(place, "10-net.conf", {**CONF, "odd": 2})
    made = install_once(place)
    assert made is not None
    assert json.loads(made.read_text())["plugins"][0]["odd"] == 2
    assert names(place) == ["10-net.conflist"]


def test_somebody_elses_list_is_not_overwritten_by_wrapping(place: Installation) -> None:
    conf, other = write(place, "10-net.conf", CONF), write(place, "10-net.conflist", LIST)
    with pytest.raises(ConfigurationError, match=r"10-net\.conflist, but a file of that name exists"):
        install_once(place)
    assert (json.loads(conf.read_text()), json.loads(other.read_text())) == (CONF, LIST)


def test_a_malformed_file_is_left_alone_and_the_next_one_used(place: Installation) -> None:
    broken = write(place, "05-broken.conflist", '{"name": ')
    good = write(place, "10-net.conflist", LIST)
    assert install_once(place) == good
    assert broken.read_text() == '{"name": '


def test_with_only_a_malformed_file_nothing_is_installed(place: Installation) -> None:
    broken = write(place, "05-broken.conflist", "[]")
    assert install_once(place) is None
    assert broken.read_text() == "[]"


def test_messages_call_files_what_the_node_calls_them(place: Installation) -> None:
    there = replace(place, net_directory_of_node=Path("/etc/cni/net.d"), binary_directory_of_node=Path("/opt/cni/bin"))
    write(place, "05-broken.conflist", "{")
    told: list[str] = []
    assert install_once(there, told.append) is None
    assert [text.partition(": ")[0] for text in told] == ["/etc/cni/net.d/05-broken.conflist"]
    write(place, "10-net.conf", CONF)
    write(place, "10-net.conflist", LIST)
    with pytest.raises(ConfigurationError, match=r"^/etc/cni/net\.d/10-net\.conf has to become"):
        install_once(there, told.append)
    assert there.on_node(place.binary_directory / "ambimesh-cni") == Path("/opt/cni/bin/ambimesh-cni")
    assert (place.on_node("/x"), there.on_node("/else")) == (Path("/x"), Path("/else"))


def test_a_folder_that_is_missing_is_no_error(place: Installation) -> None:
    place.net_directory.rmdir()
    assert install_once(place) is None


def test_a_missing_binary_says_how_to_build_it(place: Installation) -> None:
    assert place.binary is not None
    place.binary.unlink()
    with pytest.raises(ConfigurationError, match=r"build\.sh"):
        install_once(place)


@pytest.mark.parametrize("call", ["fchmod", "fsync", "rename"])
@pytest.mark.parametrize("name", ["10-net.conflist", "10-net.conf"])
def test_on_a_full_disk_the_original_is_intact(
    place: Installation, monkeypatch: pytest.MonkeyPatch, call: str, name: str
) -> None:
    original = LIST if name.endswith("list") else CONF
    path = write(place, name, original)
    place.binary_directory.mkdir()

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    install_once(Installation(
        net_directory=place.net_directory / "elsewhere", binary_directory=place.binary_directory,
        binary=place.binary, agent_socket=place.agent_socket,
    ))  # fmt: skip
    monkeypatch.setattr(os, call, full)
    with pytest.raises(EnvironmentLacks, match="No space left"):
        install_once(place)
    monkeypatch.undo()
    assert names(place) == [name]
    assert json.loads(path.read_text()) == original
    assert install_once(place) is not None


def test_uninstall_takes_out_the_entry_everywhere_and_the_binary(place: Installation) -> None:
    path = write(place, "10-net.conflist", LIST)
    path.chmod(0o604)
    install_once(place)
    earlier = write(place, "05-net.conflist", LIST)
    install_once(place)
    assert sorted(uninstall_once(place)) == [earlier, path]
    assert json.loads(path.read_text()) == LIST
    assert path.stat().st_mode & 0o777 == 0o604
    assert not (place.binary_directory / "ambimesh-cni").exists()
    assert uninstall_once(place) == []


@asynccontextmanager
async def kept(place: Installation) -> AsyncIterator[list[Path | None]]:
    outcomes: list[Path | None] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_installed, place, lambda look: outcomes.append(look.path))
        yield outcomes
        nursery.cancel_scope.cancel()


async def eventually(condition: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await trio.sleep(0.01)


def chained(path: Path) -> Callable[[], bool]:
    return lambda: path.exists() and types(path)[-1:] == ["ambimesh-cni"]


async def test_it_waits_for_a_configuration_and_repairs_what_others_do(place: Installation) -> None:
    async with kept(place) as outcomes:
        await eventually(lambda: outcomes == [None])
        path = write(place, "10-net.conflist", LIST)
        await eventually(chained(path))
        # The network's agent writes its file again, in place and by a rename.
        path.write_text(json.dumps(LIST))
        await eventually(chained(path))
        write(place, "x.tmp", LIST).rename(path)
        await eventually(chained(path))
        # Somebody puts a file before ours.
        earlier = write(place, "01-other.conflist", LIST)
        await eventually(chained(earlier))
        # It goes again, and so does the binary.
        earlier.unlink()
        (place.binary_directory / "ambimesh-cni").unlink()
        await eventually((place.binary_directory / "ambimesh-cni").exists)
        await eventually(lambda: outcomes[-1] == path)


async def test_what_no_runtime_could_use_is_told_at_every_look(
    place: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "_REPEAT", 0.02)
    looks: list[Look] = []
    broken = write(place, "05-broken.conflist", "{")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_installed, place, looks.append)
        await eventually(lambda: len(looks) > 1)
        for look in looks:
            assert look.missing_because is not None
            assert look.missing_because.startswith(f"{broken}: not JSON")
        good = write(place, "10-net.conflist", LIST)
        await eventually(lambda: looks[-1].path == good)
        assert looks[-1].missing_because is None
        assert len(looks[-1].unusable) == 1
        broken.unlink()
        await eventually(lambda: looks[-1].unusable == ())
        nursery.cancel_scope.cancel()
    assert Look(None).missing_because == "there is no usable CNI configuration yet"
    assert Look(None, EnvironmentLacks("disk full"), ("x",)).missing_because == "disk full"


async def test_a_folder_replaced_by_another_is_found(place: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_REPEAT", 0.05)
    place.net_directory.rmdir()
    async with kept(place) as outcomes:
        await eventually(lambda: outcomes[:1] == [None])
        place.net_directory.mkdir()
        path = write(place, "10-net.conflist", LIST)
        await eventually(chained(path))


async def test_it_settles(place: Installation) -> None:
    write(place, "10-net.conflist", LIST)
    async with kept(place) as outcomes:
        await eventually(lambda: len(outcomes) >= 1)
        await trio.sleep(0.5)
        # Its own write is seen once as a change, and then there is nothing more to do.
        assert len(outcomes) <= 3


def options(place: Installation) -> list[str]:
    return [
        "--net-dir", str(place.net_directory), "--bin-dir", str(place.binary_directory),
        "--binary", str(place.binary), "--agent-socket", "/run/b.sock",
    ]  # fmt: skip


def test_the_command(place: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(place, "10-net.conflist", LIST)
    assert run(["install", *options(place)]) == 0
    assert json.loads(path.read_text())["plugins"][1]["agentSocket"] == "/run/b.sock"
    assert run(["uninstall", *options(place)]) == 0
    assert types(path) == ["bridge"]
    assert place.binary is not None
    place.binary.unlink()
    assert run(["install", *options(place)]) == 1
    assert "build.sh" in capsys.readouterr().err
