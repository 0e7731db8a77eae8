"""Actors: forked processes that run one function in a cgroup and a network namespace of their own.

Control groups belong to processes, so whoever is to be told by its cgroup must be one. An actor is forked, not started:
its function is any callable, closures included, and only its result travels back, pickled, through a pipe. Fork from
code that runs no other thread (and so not from inside trio).
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from mesh.closing import Closing
from mesh.netns import NetworkNamespace


class ActorFailed(Exception):
    """The function raised something else than an OSError, or the process died; the text is its traceback."""


class Actor(Closing):
    """One running function.

    Args:
        cgroup: the cgroup v2 folder the process joins.
        namespace: the network namespace it enters; None to stay.
        function: what it runs, with the arguments that follow.
    """

    def __init__(
        self, cgroup: Path, namespace: NetworkNamespace | None, function: Callable[..., Any], *arguments: Any
    ) -> None:
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(reading)
            _play(writing, cgroup, namespace, function, arguments)
        os.close(writing)
        self._pipe = os.fdopen(reading, "rb")
        self._running = True

    def finished(self, seconds: float) -> bool:
        """Whether the result is there, or the process died, within so many seconds."""
        return bool(select.select([self._pipe], [], [], seconds)[0])

    def join(self) -> Any:
        """Wait for the function's result.

        Raises:
            OSError: the function did; of its very kind.
            ActorFailed: it failed in another way.
        """
        raw = self._pipe.read()
        self.close()
        if not raw:
            raise ActorFailed(f"process {self.pid} died without a result")
        error, value, text = pickle.loads(raw)  # written by our own child
        if error is None:
            return value
        if issubclass(error, OSError):
            failure: OSError = error(*value)
            failure.add_note(text)
            raise failure
        raise ActorFailed(text)

    def close(self) -> None:
        """Kill the process if it still runs, and reap it; calling this twice is harmless."""
        if self._running:
            self._running = False
            os.kill(self.pid, signal.SIGKILL)  # ours and not reaped yet, so the number is still its own
            os.waitpid(self.pid, 0)
            self._pipe.close()


def _play(
    writing: int,
    cgroup: Path,
    namespace: NetworkNamespace | None,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> NoReturn:
    outcome: tuple[type[BaseException] | None, Any, str]
    try:
        (cgroup / "cgroup.procs").write_text(str(os.getpid()))
        with namespace.entered() if namespace is not None else contextlib.nullcontext():
            outcome = (None, function(*arguments), "")
    except OSError as error:
        outcome = (type(error), error.args, traceback.format_exc())
    except BaseException:
        outcome = (RuntimeError, (), traceback.format_exc())
    with os.fdopen(writing, "wb") as pipe, contextlib.suppress(OSError):
        pickle.dump(outcome, pipe)
    os._exit(0)
