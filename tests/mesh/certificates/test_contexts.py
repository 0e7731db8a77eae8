from __future__ import annotations

import gc
import weakref

from mesh.certificates.contexts import ContextCache
from mesh.testing.ca import TestAuthority

authority = TestAuthority()


def test_a_context_is_made_once_and_goes_with_its_credentials() -> None:
    cache = ContextCache()
    credentials = authority.issue(authority.identity("default", "a"))
    client, server = cache.client(credentials), cache.server(credentials)
    assert cache.client(credentials) is client
    assert cache.server(credentials) is server
    assert client is not server
    gone = weakref.ref(client)
    del client, server, credentials
    gc.collect()
    assert gone() is None


def test_rotated_credentials_get_a_context_of_their_own() -> None:
    cache = ContextCache()
    first, second = (authority.issue(authority.identity("default", "a")) for _ in range(2))
    assert cache.client(first) is not cache.client(second)
