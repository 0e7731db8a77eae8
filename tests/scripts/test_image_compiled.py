"""An image's part of the compiled form: used where only the image's packages are, and noticing their changes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mesh import compiled
from scripts import image
from scripts.image_compiled import copy_compiled

PROXIES = {name: one for name, one in image.components().items() if one.get("compiled")}
START = """
import importlib, json, os, sys
home, module = sys.argv[1:]
sys.path.insert(0, home)
sys.path[:] = [entry for entry in sys.path if entry not in json.loads(os.environ["CHECKOUT"])]
from mesh import compiled
form = compiled.choose()
app = importlib.import_module(module + ".app")
assert app.__file__.startswith(home), app.__file__
print(json.dumps([form.compiled, form.detail, [name for name, one in sys.modules.items()
    if str(getattr(one, "__file__", "")).startswith(form.detail)]]))
"""


def test_both_proxies_are_compiled() -> None:
    assert set(PROXIES) == {"ztunnel", "waypoint"}


@pytest.fixture(params=PROXIES)
def context(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """A proxy's name, and the project's folder in the context that its image is built in."""
    return request.param, image.make_context(request.param, tmp_path) / "root" / image.HOME


def test_a_proxy_runs_compiled_with_only_its_own_packages(context: tuple[str, Path]) -> None:
    name, home = context
    module = PROXIES[name]["module"]
    environment = {compiled.VARIABLE: str(home / "compiled"), "CHECKOUT": json.dumps([str(image.ROOT), ""])}
    command = [sys.executable, "-I", "-c", START, str(home), module]
    ran = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    form, detail, loaded = json.loads(ran.stdout)
    assert (form, detail) == (True, str(home / "compiled"))
    tops = {loaded_name.partition(".")[0] for loaded_name in loaded}
    assert {"mesh", module} <= tops
    assert ("waypoint__mypyc" in loaded) is (name == "waypoint")


def test_it_holds_no_library_that_it_does_not_load(context: tuple[str, Path]) -> None:
    name, home = context
    manifest = compiled.read_manifest(home / "compiled", home)
    kept = {str(file.relative_to(home / "compiled")) for file in (home / "compiled").rglob("*.so")}
    assert kept == set(manifest.files.values())
    assert all(file.partition("/")[0] in PROXIES[name]["sources"] for file in manifest.sources)
    whole = compiled.read_manifest(compiled.FOLDER)
    assert ("waypoint__mypyc" in manifest.files) is (name == "waypoint")
    assert len(manifest.files) < len(whole.files)
    for module in manifest.files:
        assert module.endswith("__mypyc") or f"{module.replace('.', '/')}.py" in manifest.sources


def test_a_changed_source_is_noticed(context: tuple[str, Path]) -> None:
    _, home = context
    with (home / "mesh" / "errors.py").open("a") as file:
        file.write("\n")
    with pytest.raises(compiled.Unusable, match=r"mesh/errors\.py has changed"):
        compiled.read_manifest(home / "compiled", home)


def test_what_is_of_no_package_of_the_image_is_left_out(tmp_path: Path) -> None:
    copy_compiled(compiled.FOLDER, tmp_path / "none", ["resources"])
    manifest = json.loads((tmp_path / "none" / compiled.MANIFEST).read_text())
    assert manifest["files"] == manifest["sources"] == {}
    assert manifest["interpreter"] == compiled.interpreter()
