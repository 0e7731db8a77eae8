"""What holds for every test: promised privileges are there, nothing is skipped in CI, nothing is left behind.

``tests/README.md`` tells the tiers and how to run them.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings

from mesh import compiled
from mesh.testing.leftovers import Inventory, children, take_inventory
from tests.e2e.kit.fixtures import (
    cluster,
    cluster_mesh,
    cluster_namespace,
    kubernetes_api,
    kubernetes_controllers,
    kubernetes_namespace,
)

# Here rather than where they are used: a session has one API server and one cluster, whoever asks for it.
__all__ = [
    "cluster", "cluster_mesh", "cluster_namespace", "kubernetes_api", "kubernetes_controllers", "kubernetes_namespace",
]  # fmt: skip

REQUIRE_ALL = os.environ.get("CI") == "true" or os.environ.get("AMBIMESH_REQUIRE_ALL") == "1"
# Sweeps say what is right, not how fast it is: a busy machine must fail none. Where everything must run they take the
# same examples each time, so that a failure there is the change's and can be had again.
settings.register_profile(
    "ambimesh", deadline=None, derandomize=REQUIRE_ALL, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ambimesh")
# A traceback in colours and boxes takes a fifth of a second to draw, in the midst of what a test waits for.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)
# ``make test-compiled`` runs the tests of the hot modules once more, on what mypyc made of them.
if os.environ.get("AMBIMESH_TEST_FORM") == "compiled":
    _form = compiled.choose()
    if not _form.compiled:
        raise pytest.UsageError(f"AMBIMESH_TEST_FORM=compiled, but {_form.detail}")
_SKIPPED = "skipped where everything must run (CI=true or AMBIMESH_REQUIRE_ALL=1): {reason}"
_VIRTUAL_MACHINE = Path("/run/ambimesh-vm")
"""What ``tests/vm/kit`` makes in its machine."""
_TARGETS = {"lab": "test-lab", "root": "test-root", "e2e": "e2e"}
_NEEDS_ROOT = (
    "{kind} tests need root: run `make {target}` as root, or only the tier without privileges with `make test-unit`"
)
_numbers = itertools.count(1)


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What only the pure form can show is no part of a run on the compiled one."""
    if compiled.current().compiled:
        left_out = [item for item in items if item.get_closest_marker("pure_form")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skip fails where everything must run; an expected failure is none."""
    report = yield
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        report.longrepr = _SKIPPED.format(reason=_reason(report))
        report.outcome = "failed"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips itself whole."""
    report = yield
    if REQUIRE_ALL and report.outcome == "skipped":
        report.longrepr = _SKIPPED.format(reason=_reason(report))
        report.outcome = "failed"
    return report


def _privileged_kind(item: pytest.Item) -> str | None:
    return next((kind for kind in ("lab", "root", "e2e") if item.get_closest_marker(kind)), None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Missing privileges are a failure with a remedy, not a skip that nobody reads."""
    kind = _privileged_kind(item)
    if kind is not None and os.geteuid() != 0:
        pytest.fail(_NEEDS_ROOT.format(kind=kind, target=_TARGETS[kind]), pytrace=False)
    if item.get_closest_marker("vm") and not _VIRTUAL_MACHINE.exists():
        pytest.fail("vm tests run in a virtual machine with Debian's kernel: `make test-vm`", pytrace=False)


@pytest.fixture
def resource_prefix() -> str:
    """A short name, unique on this machine, with which a test begins the names of what it makes in the kernel."""
    return f"t{os.getpid():x}{next(_numbers):x}"


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """Programs that a test runs in this process configure the log for themselves."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(autouse=True)
def _nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a root or lab test that leaves something named by its prefix."""
    if _privileged_kind(request.node) is None or "resource_prefix" not in request.fixturenames:
        yield
        return
    prefix: str = request.getfixturevalue("resource_prefix")
    before = take_inventory()
    yield
    left = take_inventory().since(before, prefix)
    if left:
        pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)


_before_session: Inventory | None = None
_left_by_workers: list[str] = []


def pytest_sessionstart(session: pytest.Session) -> None:
    """Note what is there already."""
    global _before_session
    _before_session = take_inventory()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """One of the processes among which tests are divided (pytest-xdist) has ended; it can fail nothing itself."""
    _left_by_workers.extend(getattr(node, "workeroutput", {}).get("left", ()))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """No child outlives the session; where nobody else works on the machine, nothing else does either."""
    left = [f"process {child}" for child in children(os.getpid())]
    told: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if told is not None:
        told["left"] = left
        return
    left += _left_by_workers
    if REQUIRE_ALL and _before_session is not None:
        now = take_inventory()
        left += [line for line in now.since(_before_session) if not line.startswith("process ")]
    if left:
        reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line("left behind by this session:\n  " + "\n  ".join(left), red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
