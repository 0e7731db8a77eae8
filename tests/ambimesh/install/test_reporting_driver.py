"""The archive of a bug report."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from ambimesh.install.reporting_driver import Part, write_archive
from mesh.errors import EnvironmentLacks


def test_what_was_had_is_in_it_and_what_was_not_is_named(tmp_path: Path) -> None:
    file = tmp_path / "report.tar.gz"
    write_archive(file, [Part("a/b.yaml", "x: 1\n"), Part("c.log", "you may not", failed=True)])
    assert file.stat().st_mode & 0o077 == 0
    with tarfile.open(file) as archive:
        found = {entry.name: archive.extractfile(entry) for entry in archive.getmembers()}
        texts = {name.split("/", 1)[1]: stream.read().decode() for name, stream in found.items() if stream is not None}
    assert texts == {"a/b.yaml": "x: 1\n", "errors.txt": "c.log: you may not\n"}


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentLacks, match="cannot be written"):
        write_archive(tmp_path / "absent" / "x.tar.gz", [])
