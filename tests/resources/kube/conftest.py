from __future__ import annotations

from tests.resources.kube.served import client, server

__all__ = ["client", "server"]
