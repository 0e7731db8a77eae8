"""What goes into the images. That they start is shown by ``make images``, which builds them whole."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
from importlib import metadata
from pathlib import Path

import pytest

from scripts import image
from scripts.image_requirements import read_lock

COMPONENTS = image.components()
ROOT = image.ROOT
ONLY = """
import importlib, importlib.abc, importlib.metadata, pathlib, re, sys

home, allowed, tops = pathlib.Path(sys.argv[1]), set(sys.argv[2].split(',')), sys.argv[3].split(',')
plain = lambda name: re.sub('[-_.]+', '-', name).lower()
providers = importlib.metadata.packages_distributions()

class Gate(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        owners = {plain(owner) for owner in providers.get(name.partition('.')[0], [])}
        if owners and not owners & allowed:
            raise ImportError(f'{name} is of {owners}, which the image does not have')

sys.meta_path.insert(0, Gate())
sys.path[:0] = [str(home), str(home / 'operator')]
sys.path[:] = [entry for entry in sys.path if pathlib.Path(entry) != pathlib.Path(sys.argv[4])]
count = 0
for top in tops:
    base = home / 'operator' if top == 'controlplane' else home
    for file in sorted((base / top).rglob('*.py')):
        parts = file.relative_to(base).with_suffix('').parts
        if parts[-1] in ('__main__', 'generate'):
            continue
        module = importlib.import_module('.'.join(part for part in parts if part != '__init__'))
        assert module.__file__ is None or module.__file__.startswith(str(home)), module.__file__
        count += 1
print(count)
"""


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Stands for what ``make setup`` builds."""
    (tmp_path / "built" / "compiled").mkdir(parents=True)
    (tmp_path / "built" / "compiled" / "manifest.json").write_text('{"files": {}, "sources": {}}')
    (tmp_path / "built" / "bin").mkdir()
    (tmp_path / "built" / "bin" / "ambimesh-cni").touch()
    monkeypatch.setattr(image, "_built", lambda name: tmp_path / "built" / name)
    return tmp_path


@pytest.mark.parametrize("name", COMPONENTS)
def test_an_image_holds_all_that_its_modules_import(name: str, built: Path) -> None:
    context = image.make_context(name, built)
    assert not list(context.rglob("__pycache__"))
    (told,) = metadata.distributions(name="ambimesh", path=[str(context / "root/opt/ambimesh")])
    assert told.version == image.version()
    requirements = read_lock((context / "requirements.txt").read_text())
    tops = ["controlplane" if source == "operator" else source for source in COMPONENTS[name]["sources"]]
    command = [sys.executable, "-I", "-c", ONLY, str(context / "root/opt/ambimesh"), ",".join(requirements)]
    ran = subprocess.run([*command, ",".join(tops), str(ROOT)], capture_output=True, text=True, cwd=built)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) > 50


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_containerfile_says_what_the_archive_says(name: str) -> None:
    text = (image.IMAGES / f"{name}.Containerfile").read_text()
    component = COMPONENTS[name]
    assert f"USER {component['user']}:{component['user']}\n" in text
    assert f'ENTRYPOINT ["python", "-m", "{component["module"]}"]' in text
    assert ("AMBIMESH_COMPILED" in text) is bool(component.get("compiled"))
    assert ("BCC_KERNEL_SOURCE" in text) is bool(component.get("headers"))
    assert re.search(r"^ARG BASE=debian:12\.\d+-slim$", text, re.MULTILINE), "pinned to a point release"


def test_the_chart_runs_images_as_the_users_they_are_for() -> None:
    for name in ("operator", "agent", "ztunnel"):
        text = (ROOT / "deploy/helm/ambimesh/templates" / f"{name}.yaml").read_text()
        assert f"runAsUser: {COMPONENTS[name]['user']}" in text


def test_an_archive_is_one_layer_and_the_same_each_time(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "x").write_text("y")
    for target in ("a.tar", "b.tar"):
        image.pack(root, "localhost/x:1", {"Entrypoint": ["/x"]}, tmp_path / target)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as archive:
        [entry] = json.load(archive.extractfile("manifest.json") or pytest.fail("no manifest"))
        config = json.load(archive.extractfile(entry["Config"]) or pytest.fail("no config"))
        layer = archive.extractfile("layer.tar")
        assert layer is not None
        with tarfile.open(fileobj=layer) as inner:
            assert "./etc/x" in inner.getnames()
    assert entry["RepoTags"] == ["localhost/x:1"]
    assert config["config"]["Entrypoint"] == ["/x"]
