"""The bill of materials of an image's file system, in CycloneDX 1.6: ``image_sbom.py ROOT NAME VERSION``.

Debian packages are read from dpkg's status, Python distributions from their own metadata, so what is listed is what
lies there and not what was asked for.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

_SPACE = uuid.UUID("6f1d5e0a-3f57-5c0f-9d6e-5c2b1a6d9b11")


def bill(root: Path, name: str, version: str) -> dict[str, Any]:
    """The document: the same for the same file system."""
    components = sorted([*debian(root), *python(root)], key=lambda each: each["bom-ref"])
    digest = json.dumps([name, version, [each["bom-ref"] for each in components]])
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_SPACE, digest)}",
        "version": 1,
        "metadata": {"component": {"type": "container", "bom-ref": name, "name": name, "version": version}},
        "components": components,
    }


def debian(root: Path) -> Iterator[dict[str, Any]]:
    """What dpkg has installed."""
    status = root / "var/lib/dpkg/status"
    if not status.exists():
        return
    for paragraph in status.read_text(errors="replace").split("\n\n"):
        fields = HeaderParser().parsestr(paragraph)
        if fields.get("Status") != "install ok installed":
            continue
        name, version, architecture = fields["Package"], fields["Version"], fields["Architecture"]
        reference = f"pkg:deb/debian/{quote(name)}@{quote(version, safe='')}?arch={architecture}"
        yield {
            "type": "library",
            "bom-ref": reference,
            "name": name,
            "version": version,
            "purl": reference,
            "publisher": fields.get("Maintainer", ""),
        }


def python(root: Path) -> Iterator[dict[str, Any]]:
    """What lies in the image's virtual environment."""
    for metadata in root.glob("opt/ambimesh/venv/lib/python3*/site-packages/*.dist-info/METADATA"):
        fields = HeaderParser().parsestr(metadata.read_text(errors="replace"))
        name, version = fields["Name"].lower().replace("_", "-"), fields["Version"]
        reference = f"pkg:pypi/{quote(name)}@{quote(version, safe='')}"
        found: dict[str, Any] = {
            "type": "library", "bom-ref": reference, "name": name, "version": version, "purl": reference,
        }  # fmt: skip
        licence = fields.get("License-Expression") or ""
        if licence:
            found["licenses"] = [{"expression": licence}]
        yield found


def main() -> int:
    """Print the document; returns the exit status."""
    if len(sys.argv) != 4:
        sys.stderr.write("usage: image_sbom.py ROOT NAME VERSION\n")
        return 2
    sys.stdout.write(json.dumps(bill(Path(sys.argv[1]), sys.argv[2], sys.argv[3]), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
