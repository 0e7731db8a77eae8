"""How the setting up of a connection fails: always as an error of the closed tree, told once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
import trio

from mesh.errors import ConnectFailed, InternalError, MeshError

_log = structlog.get_logger("proxy")


def unexpected(error: Exception) -> InternalError:
    """A bug met while a connection was being set up: logged here, and the reason for which that connection fails, so
    that it does not stay in the table for ever.
    """
    _log.exception("connection failed unexpectedly", exc_info=error)
    return InternalError(f"a bug of this proxy: {error!r}")


@contextmanager
def failing(fail: Callable[[MeshError], None]) -> Iterator[None]:
    """For a task that sets a connection up: whatever ends the block early is told to ``fail``, once, as an error."""
    try:
        yield
    except MeshError as error:
        fail(error)
    except trio.Cancelled:
        fail(ConnectFailed("the pod is no longer served"))
        raise
    except Exception as error:
        fail(unexpected(error))
