from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio

from mesh.errors import ConfigurationError
from resources.folder_source import FolderSource
from resources.objects import Namespace


def manifest(*names: str, label: str = "x") -> str:
    return "".join(
        f"---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{l: {label}}}}}\n" for name in names
    )


def names(source: FolderSource) -> list[str]:
    return sorted(value.metadata.name for value in source.objects.of_kind(Namespace))


async def change(source: FolderSource) -> None:
    with trio.fail_after(5):
        await source.wait_change()


async def test_files_come_change_and_go(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(manifest("a"))
    (tmp_path / "notes.txt").write_text("not a manifest")
    (tmp_path / ".hidden.yaml").write_text(manifest("hidden"))
    source = FolderSource(tmp_path)
    async with source.open():
        await change(source)
        assert names(source) == ["a"]
        (tmp_path / "b.json").write_text('{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "b"}}')
        await change(source)
        assert names(source) == ["a", "b"]
        (tmp_path / "a.yaml").write_text(manifest("a", label="y"))
        await change(source)
        found = source.objects.find(Namespace, "", "a")
        assert found is not None
        assert found.metadata.labels == {"l": "y"}
        (tmp_path / "a.yaml").unlink()
        await change(source)
        assert names(source) == ["b"]


async def test_a_broken_document_keeps_its_last_good_version(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(manifest("a", "b"))
    source = FolderSource(tmp_path)
    async with source.open():
        await change(source)
        broken = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: b, nope: 1}\n"
        file.write_text(manifest("a") + broken + manifest("c"))
        await change(source)
        assert names(source) == ["a", "b", "c"]
        assert [problem.field for problem in source.problems] == ["$.metadata.nope"]
        # Now the name itself is unreadable: b may be this document, so b stays.
        file.write_text(manifest("a") + "---\nmetadata: {name: b\n")
        await change(source)
        assert names(source) == ["a", "b", "c"]
        file.write_bytes(b"\xff\xfe\x00")
        await change(source)
        assert names(source) == ["a", "b", "c"]
        assert "UTF-8" in str(source.problems[0])
        file.write_text(manifest("a"))
        await change(source)
        assert names(source) == ["a"]
        assert source.problems == ()


async def test_only_a_misspelt_kind_keeps_its_object(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    other = "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: b}\n"
    file.write_text(manifest("a", "b") + other)
    source = FolderSource(tmp_path)
    async with source.open():
        await change(source)
        file.write_text(manifest("a").replace("Namespace", "Namespce") + other)
        await change(source)
        assert names(source) == ["a"], "a may be the misspelt one; b is no Deployment"
        assert len(source.problems) == 2


async def test_two_files_with_one_name(tmp_path: Path) -> None:
    (tmp_path / "1.yaml").write_text(manifest("a", label="first"))
    (tmp_path / "2.yaml").write_text(manifest("a", label="second"))
    source = FolderSource(tmp_path)
    async with source.open():
        await change(source)
        assert [value.metadata.labels["l"] for value in source.objects.of_kind(Namespace)] == ["first"]
        assert "1.yaml, which counts" in str(source.problems[0])
        (tmp_path / "1.yaml").unlink()
        await change(source)
        assert [value.metadata.labels["l"] for value in source.objects.of_kind(Namespace)] == ["second"]
        assert source.problems == ()


async def test_folders_within(tmp_path: Path) -> None:
    source = FolderSource(tmp_path)
    async with source.open():
        await change(source)
        inner = tmp_path / "team" / "app"
        inner.mkdir(parents=True)
        (inner / "a.yaml").write_text(manifest("a"))
        await change(source)
        assert names(source) == ["a"]
        (inner / "b.yaml").write_text(manifest("b"))
        await change(source)
        assert names(source) == ["a", "b"]
        (tmp_path / "team").rename(tmp_path.parent / "elsewhere")
        await change(source)
        assert names(source) == []


async def test_a_mounted_config_map_swaps_at_once(tmp_path: Path) -> None:
    for version in ("one", "two"):
        folder = tmp_path / f"..version{version}"
        folder.mkdir()
        (folder / "a.yaml").write_text(manifest("a", label=version))
    (tmp_path / "..data").symlink_to("..versionone")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    source = FolderSource(tmp_path)
    async with source.open():
        await change(source)
        (tmp_path / "..new").symlink_to("..versiontwo")
        os.rename(tmp_path / "..new", tmp_path / "..data")
        await change(source)
        assert [value.metadata.labels["l"] for value in source.objects.of_kind(Namespace)] == ["two"]


async def test_a_lost_folder_keeps_its_objects(tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "a.yaml").write_text(manifest("a"))
    source = FolderSource(folder)
    async with source.open():
        await change(source)
        folder.rename(tmp_path / "away")
        await change(source)
        assert names(source) == ["a"]
        assert "the folder is gone" in str(source.problems[0])
        folder.mkdir()
        (folder / "b.yaml").write_text(manifest("b"))
        await change(source)
        assert names(source) == ["b"]
        assert source.problems == ()


async def test_a_folder_that_may_not_be_read_keeps_its_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "a.yaml").write_text(manifest("a"))
    source = FolderSource(tmp_path)
    scandir = os.scandir

    def closed(path: Path) -> object:
        # As the kernel answers a process without privileges; root, which tests may run as, is let in everywhere.
        if Path(path) == inner:
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    async with source.open():
        await change(source)
        monkeypatch.setattr(os, "scandir", closed)
        (tmp_path / "new").mkdir()
        await change(source)
        assert names(source) == ["a"]
        assert "may not be read" in str(source.problems[0])


async def test_no_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is no folder"):
        async with FolderSource(tmp_path / "none").open():
            pass


async def test_a_burst_is_one_change(tmp_path: Path) -> None:
    source = FolderSource(tmp_path)
    async with source.open():
        await change(source)
        for index in range(50):
            (tmp_path / f"{index}.yaml").write_text(manifest(f"n{index}"))
        await change(source)
        assert len(names(source)) == 50
