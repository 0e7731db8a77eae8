"""The harness itself: async tests run, skips fail where they must, privileges are asked for, leftovers are seen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(
    folder: Path,
    test: str,
    *,
    conftest: str = "",
    environment: dict[str, str] | None = None,
    arguments: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Run one test module under this project's configuration and conftest."""
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text() + conftest)
    (folder / "test_inner.py").write_text(f"import os\nimport pytest\nimport subprocess\nimport trio\n{test}\n")
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "AMBIMESH_REQUIRE_ALL")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments, "test_inner.py"],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


ORDINARY = """
async def test_async():
    await trio.sleep(0)
    assert 1 == 2

def test_warning():
    import warnings
    warnings.warn('old', stacklevel=1)

def test_skip():
    pytest.skip('no tool')

@pytest.mark.skipif(True, reason='no kernel')
def test_mark():
    pass
"""


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    return run(tmp_path_factory.mktemp("ordinary"), ORDINARY)


def test_an_async_test_really_runs(ordinary: subprocess.CompletedProcess[str]) -> None:
    assert ordinary.returncode == 1
    assert "assert 1 == 2" in ordinary.stdout
    assert "FAILED test_inner.py::test_async" in ordinary.stdout


def test_a_warning_fails_a_test(ordinary: subprocess.CompletedProcess[str]) -> None:
    assert "FAILED test_inner.py::test_warning - UserWarning: old" in ordinary.stdout


def test_a_skip_elsewhere_is_shown(ordinary: subprocess.CompletedProcess[str]) -> None:
    assert "2 failed, 2 skipped" in ordinary.stdout
    assert sorted(line.rpartition(": ")[2] for line in ordinary.stdout.splitlines() if line.startswith("SKIPPED")) == [
        "no kernel",
        "no tool",
    ]


@pytest.mark.parametrize(("variable", "value"), [("CI", "true"), ("AMBIMESH_REQUIRE_ALL", "1")])
def test_a_skip_fails_where_everything_must_run(variable: str, value: str, tmp_path: Path) -> None:
    done = run(tmp_path, ORDINARY, environment={variable: value})
    assert "3 failed, 1 error" in done.stdout  # a mark skips while the test is set up
    assert done.stdout.count("\nskipped where everything must run") == 2
    assert [reason for reason in ("no tool", "no kernel") if reason not in done.stdout] == []


def test_a_module_that_skips_itself_fails_there_too(tmp_path: Path) -> None:
    done = run(tmp_path, "pytest.skip('no tool', allow_module_level=True)", environment={"CI": "true"})
    assert done.returncode != 0
    assert "skipped where everything must run" in done.stdout
    assert "no tool" in done.stdout


def test_missing_privileges_fail_with_a_remedy(tmp_path: Path) -> None:
    kinds = ("root", "lab")
    tests = [f"@pytest.mark.{kind}\ndef test_{kind}():\n    pass\n" for kind in kinds]
    done = run(tmp_path, "\n".join(tests), conftest="\nos.geteuid = lambda: 1000\n")
    assert "2 errors" in done.stdout
    assert [kind for kind in kinds if f"make test-{kind}" not in done.stdout] == []


def test_an_unknown_mark_is_an_error(tmp_path: Path) -> None:
    done = run(tmp_path, "@pytest.mark.rooot\ndef test_x():\n    pass")
    assert done.returncode != 0
    assert "rooot" in done.stdout


@pytest.mark.parametrize("arguments", [[], ["--numprocesses=2"]], ids=["one process", "divided"])
def test_a_child_that_outlives_the_session_is_seen(tmp_path: Path, arguments: list[str]) -> None:
    done = run(
        tmp_path,
        "def test_x():\n    child = subprocess.Popen(['sleep', '3.25'])\n    child.returncode = 0  # silences Popen",
        arguments=arguments,
    )
    assert done.returncode == 1
    assert "left behind by this session" in done.stdout
    assert "sleep 3.25" in done.stdout


@pytest.mark.root
def test_a_namespace_left_behind_fails_its_test(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        "@pytest.mark.root\ndef test_x(resource_prefix):\n"
        "    print('made', resource_prefix)\n"
        "    subprocess.run(['ip', 'netns', 'add', resource_prefix + '-pod'], check=True)\n"
        "    assert 1 == 2",
    )
    prefix = next(line for line in done.stdout.splitlines() if line.startswith("made ")).split()[1]
    subprocess.run(["ip", "netns", "delete", f"{prefix}-pod"], check=True)
    assert f"left behind:\n  network namespace {prefix}-pod" in done.stdout.replace("E   ", "")
    assert "1 failed, 1 error" in done.stdout
