from __future__ import annotations

import pytest

from ambimesh.dump_codec import body_of, read_dump
from mesh.errors import InvalidMessage


def test_a_refusal_is_told_as_it_was_said() -> None:
    assert body_of("z", "GET /", 200, b"yes") == b"yes"
    with pytest.raises(InvalidMessage, match=r"^z answered 404 to GET /: no such page$"):
        body_of("z", "GET /", 404, b"no such page")


@pytest.mark.parametrize(("content", "words"), [(b"text", "no JSON"), (b"", "no JSON"), (b"[]", r"no object: b'\[\]'")])
def test_what_is_no_dump_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(InvalidMessage, match=f"^dump.json: {words}"):
        read_dump(content, "dump.json:")


def test_a_dump_is_what_it_holds() -> None:
    assert read_dump(b'{"workloads": [{"name": "a"}]}', "dump.json:") == {"workloads": [{"name": "a"}]}
