import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.installer.conflist import (
    MAXIMUM_FILE,
    encode,
    has_entry,
    is_candidate,
    read,
    target_name,
    with_entry,
    without_entry,
)
from mesh.errors import ConfigurationError

ENTRY = {"type": "ambimesh-cni", "agentSocket": "/run/a.sock"}
BRIDGE = {"type": "bridge", "bridge": "cni0", "ipam": {"type": "host-local"}, "odd": [1, 2.5, None, "é"]}

scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
extras = st.dictionaries(st.text(min_size=1, max_size=8), scalars, max_size=3)
plugins = st.builds(
    lambda kind, more: {**more, "type": kind}, st.sampled_from(["bridge", "calico", "portmap", "ambimesh-cni"]), extras
)
lists = st.builds(
    lambda more, entries: {**more, "name": "net", "plugins": [{"type": "bridge"}, *entries]},
    extras,
    st.lists(plugins, max_size=4),
)
configurations = lists | st.builds(lambda more: {**more, "type": "bridge"}, extras.filter(lambda d: "plugins" not in d))


def read_document(document: dict[str, Any]) -> Any:
    return read(json.dumps(document).encode(), "here")


@given(configurations)
def test_after_chaining_the_entry_is_there_once_and_the_rest_is_kept(document: dict[str, Any]) -> None:
    before = read_document(document)
    after = with_entry(before, ENTRY)
    result = document if after is None else after
    types = [plugin["type"] for plugin in result["plugins"]]
    assert types.count("ambimesh-cni") == 1
    assert types[0] != "ambimesh-cni"
    assert [entry for entry in result["plugins"] if entry["type"] == "ambimesh-cni"] == [ENTRY]
    others = document["plugins"] if before.is_list else [{**document}]
    expected = [entry for entry in others if entry["type"] != "ambimesh-cni"]
    kept = [entry for entry in result["plugins"] if entry["type"] != "ambimesh-cni"]
    if before.is_list:
        assert kept == expected
        assert {key: result[key] for key in document if key != "plugins"} == {
            key: document[key] for key in document if key != "plugins"
        }
    else:
        assert {**kept[0], **{k: document[k] for k in ("name", "cniVersion") if k in document}} == document
    # Doing it again changes nothing; what is written can be read again.
    again = read(encode(result), "here")
    assert with_entry(again, ENTRY) is None


@given(configurations)
def test_taking_out_what_was_put_in_leaves_no_trace(document: dict[str, Any]) -> None:
    chained = with_entry(read_document(document), ENTRY) or document
    without = without_entry(read_document(chained))
    assert without is not None
    assert not has_entry(read_document(without))
    assert without_entry(read_document(without)) is None


def test_a_conf_is_wrapped() -> None:
    single = read_document({"cniVersion": "0.4.0", "name": "net", **BRIDGE})
    assert with_entry(single, ENTRY) == {"cniVersion": "0.4.0", "name": "net", "plugins": [BRIDGE, ENTRY]}
    nameless = with_entry(read_document(BRIDGE), ENTRY)
    assert nameless is not None
    assert (nameless["cniVersion"], nameless["name"]) == ("0.3.1", "k8s-pod-network")


def test_an_entry_in_the_middle_stays_where_it_is() -> None:
    document = {"name": "net", "plugins": [BRIDGE, ENTRY, {"type": "portmap"}]}
    assert with_entry(read_document(document), ENTRY) is None


def test_an_entry_of_another_agent_is_replaced() -> None:
    old = {"type": "ambimesh-cni", "agentSocket": "/old"}
    after = with_entry(read_document({"name": "net", "plugins": [old, BRIDGE, old]}), ENTRY)
    assert after == {"name": "net", "plugins": [BRIDGE, ENTRY]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"type": 5}',
        b'{"name": "n", "plugins": {}}',
        b'{"name": "n", "plugins": []}',
        b'{"name": "n", "plugins": [{}]}',
        b'{"name": "n", "plugins": ["bridge"]}',
        b'{"name": "n", "plugins": [{"type": "ambimesh-cni"}]}',
        b'{"plugins": [{"type": "bridge"}]}',
        b"\xff\xfe\x00",
        b"[" * 100000,
        b" " * (MAXIMUM_FILE + 1),
    ],
)
def test_what_no_runtime_could_use_is_named(content: bytes) -> None:
    with pytest.raises(ConfigurationError, match=r"net\.d/x"):
        read(content, "net.d/x")


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_usable(content: bytes) -> None:
    try:
        read(content, "here")
    except ConfigurationError:
        return


def test_names() -> None:
    assert [is_candidate(name) for name in ("a.conf", "a.conflist", "a.json", ".a.conf", "a.conf.bak", "a")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
    assert target_name("10-net.d.conf") == "10-net.d.conflist"
