"""The bill of materials of a file system."""

from __future__ import annotations

from pathlib import Path

from scripts.image_sbom import bill

STATUS = """\
Package: bash
Status: install ok installed
Architecture: amd64
Version: 5.2.15-2+b8
Maintainer: Somebody <s@example.org>

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""


def _root(folder: Path) -> Path:
    status = folder / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text(STATUS)
    for name, extra in (("Trio", "License-Expression: MIT\n"), ("h11", "")):
        metadata = folder / f"opt/ambimesh/venv/lib/python3.11/site-packages/{name}-1.0.dist-info/METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{extra}\nThe text.\n")
    return folder


def test_it_lists_what_lies_there(tmp_path: Path) -> None:
    document = bill(_root(tmp_path), "image", "1")
    assert document["bomFormat"] == "CycloneDX"
    assert [component["purl"] for component in document["components"]] == [
        "pkg:deb/debian/bash@5.2.15-2%2Bb8?arch=amd64",
        "pkg:pypi/h11@1.0",
        "pkg:pypi/trio@1.0",
    ]
    assert document["components"][2]["licenses"] == [{"expression": "MIT"}]
    assert "licenses" not in document["components"][1]


def test_the_same_file_system_has_the_same_document(tmp_path: Path) -> None:
    root = _root(tmp_path)
    assert bill(root, "image", "1") == bill(root, "image", "1")
    assert bill(root, "image", "1")["serialNumber"] != bill(root, "image", "2")["serialNumber"]
