"""Where objects come from: the seam between the operator and Kubernetes or its stand-in."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from resources.object_set import ObjectSet
from resources.problem import Problem


class Source(Protocol):
    """A folder of manifests, or the Kubernetes API."""

    def open(self) -> AbstractAsyncContextManager[Any]:
        """Follow it.

        Raises:
            MeshError: that cannot be.
        """
        ...

    async def wait_change(self) -> ObjectSet:
        """Wait until objects or problems differ from those returned last; for one waiter at a time."""
        ...

    @property
    def objects(self) -> ObjectSet:
        """All objects, as of the last look."""
        ...

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with objects, or with the way to them."""
        ...

    @property
    def not_ready_because(self) -> str | None:
        """What the first state waits for; None once it is there."""
        ...
