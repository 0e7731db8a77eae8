"""The harness itself: async tests run, skips fail where they must, privileges are asked for, leftovers are seen."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(
    folder: Path, test: str, *, conftest: str = "", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one test module under this project's configuration and conftest."""
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text() + conftest)
    (folder / "test_inner.py").write_text(f"import os\nimport pytest\nimport subprocess\nimport trio\n{test}\n")
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "AMBIMESH_REQUIRE_ALL")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_inner.py"],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(ROOT), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_async_test_really_runs(tmp_path: Path) -> None:
    done = run(tmp_path, "async def test_x():\n    await trio.sleep(0)\n    assert 1 == 2")
    assert done.returncode == 1
    assert "assert 1 == 2" in done.stdout
    assert "1 failed" in done.stdout


def test_a_warning_fails_a_test(tmp_path: Path) -> None:
    done = run(tmp_path, "import warnings\ndef test_x():\n    warnings.warn('old', stacklevel=1)")
    assert "1 failed" in done.stdout


IN_THE_TEST = "def test_x():\n    pytest.skip('no tool')"
AS_A_MARK = "@pytest.mark.skipif(True, reason='no tool')\ndef test_x():\n    pass"
OF_A_MODULE = "pytest.skip('no tool', allow_module_level=True)"


@pytest.mark.parametrize(
    ("test", "variable", "value"),
    [
        (IN_THE_TEST, "CI", "true"),
        (AS_A_MARK, "AMBIMESH_REQUIRE_ALL", "1"),
        (OF_A_MODULE, "CI", "true"),
    ],
)
def test_a_skip_fails_where_everything_must_run(test: str, variable: str, value: str, tmp_path: Path) -> None:
    done = run(tmp_path, test, environment={variable: value})
    assert done.returncode != 0
    assert "skipped where everything must run" in done.stdout
    assert "no tool" in done.stdout


def test_a_skip_elsewhere_is_shown(tmp_path: Path) -> None:
    done = run(tmp_path, IN_THE_TEST)
    assert done.returncode == 0
    assert "SKIPPED" in done.stdout
    assert "no tool" in done.stdout


@pytest.mark.parametrize("kind", ["root", "lab"])
def test_missing_privileges_fail_with_a_remedy(kind: str, tmp_path: Path) -> None:
    done = run(
        tmp_path, f"@pytest.mark.{kind}\ndef test_x():\n    pass", conftest="\nos.geteuid = lambda: 1000\n"
    )
    assert done.returncode == 1
    assert f"make test-{kind}" in done.stdout


def test_an_unknown_mark_is_an_error(tmp_path: Path) -> None:
    done = run(tmp_path, "@pytest.mark.rooot\ndef test_x():\n    pass")
    assert done.returncode != 0
    assert "rooot" in done.stdout


def test_a_child_that_outlives_the_session_is_seen(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        "def test_x():\n    child = subprocess.Popen(['sleep', '3.25'])\n    child.returncode = 0  # silences Popen",
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
