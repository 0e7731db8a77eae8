"""Tasks beside the relay, started from its handlers, that live as long as what they are for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVarTuple

import structlog
import trio

from mesh.errors import MeshError

Arguments = TypeVarTuple("Arguments")

_log = structlog.get_logger("tasks")


class HandsOver(Protocol):
    """A loop inside trio's, such as the relay's engine."""

    def hand_over(self) -> None:
        """Give trio its turn soon."""


class OwnedTasks:
    """Tasks on behalf of one pod, say: they end with it, and a bug in one of them costs nobody else anything."""

    def __init__(self, nursery: trio.Nursery, engine: HandsOver) -> None:
        self._nursery = nursery
        self._engine = engine
        self._scopes: set[trio.CancelScope] = set()
        self._stopped = False

    def start(self, function: Callable[[*Arguments], Awaitable[None]], *arguments: *Arguments) -> None:
        """Run this soon; may be called from the engine's handlers."""
        self._nursery.start_soon(self._run, function, arguments)
        self._engine.hand_over()

    def stop(self) -> None:
        """The owner is no longer served."""
        self._stopped = True
        for scope in self._scopes:
            scope.cancel()

    async def _run(
        self, function: Callable[[*Arguments], Awaitable[None]], arguments: tuple[*Arguments]
    ) -> None:
        name = getattr(function, "__qualname__", "?")
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            if self._stopped:
                scope.cancel()
            try:
                await function(*arguments)
            except MeshError as error:
                _log.warning("task failed", task=name, error=str(error))
            except Exception:  # one connection's bug must not stop the node's traffic
                _log.exception("task failed", task=name)
            finally:
                self._scopes.discard(scope)
