"""Configuration files: what is decoded, and what each complaint names."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.config import MAX_FILE_BYTES, Port, Seconds, Settings, decode, load
from mesh.errors import ConfigurationError, InternalError


class Node(Settings, frozen=True, kw_only=True):
    name: str
    network: str = ""


class Process(Settings, frozen=True, kw_only=True):
    node: Node
    port: Port = 15008
    drain_seconds: Seconds = 5.0
    token: Path | None = None
    peers: tuple[Node, ...] = ()


class Lenient(msgspec.Struct, frozen=True):
    name: str = ""


class Holder(Settings, frozen=True):
    inner: tuple[Lenient, ...] | None = None


def read(text: str, **environment: str) -> Process:
    return decode(text, "agent.yaml", Process, environment)


def test_values_and_defaults(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("node: {name: node1}\ntoken: /run/token\npeers:\n- name: node2\n  network: east\n")
    loaded = load(file, Process)
    assert loaded == Process(
        node=Node(name="node1"), token=Path("/run/token"), peers=(Node(name="node2", network="east"),)
    )
    assert loaded.port == 15008


def test_a_file_of_comments_is_all_defaults() -> None:
    class AllDefaults(Settings, frozen=True):
        level: str = "info"

    for text in ("", "# nothing\n", "---\n", "null\n", "{}"):
        assert decode(text, "x", AllDefaults) == AllDefaults()


def test_settings_cannot_be_changed() -> None:
    loaded = read("node: {name: n}")
    with pytest.raises(AttributeError):
        loaded.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("node: {name: n}\nportt: 1\n", ":1: $:", "unknown field `portt`"),
        ("node:\n  name: n\n  zone: x\n", ":2: $.node:", "unknown field `zone`; correct its name or remove it"),
        ("node:\n  nam: n\n", ":2: $.node:", "unknown field `nam`; did you mean name?"),
        ("node: {name: n}\nport: many\n", ":2: $.port:", "Expected `int`, got `str`"),
        ("node: {name: n}\nport: 70000\n", ":2: $.port:", "<= 65535"),
        ("node: {name: n}\ndrain_seconds: 0\n", ":2: $.drain_seconds:", "> 0"),
        ("node: {name: n}\npeers:\n- name: a\n- name: 3\n", ":4: $.peers[1].name:", "Expected `str`"),
        ("port: 1\n", ":1: $:", "missing required field `node`"),
        ("node: {name: n}\ntoken: 3\n", ":2: $.token:", "Path"),
        ("[1, 2]", ":1: $:", "Expected `object`, got `array`"),
        ("node: {name: a}\nnode: {name: b}\n", ":2: $.node:", "given twice"),
        ("? [a]\n: 1\n", ":1: $:", "plain text"),
    ],
)
def test_a_wrong_key_is_named(text: str, place: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(text)
    message = str(caught.value)
    assert message.startswith(f"agent.yaml{place}")
    assert problem in message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("node: {name: n\nport: ]", "agent.yaml:2: not valid YAML"),
        ("node: &a {name: n}\npeers: [*a]\n", "agent.yaml:2: not valid YAML: aliases are not taken"),
        ("a: 1\n---\nb: 2\n", "agent.yaml:2: not valid YAML"),
        ("node: !!python/object:os.system {}\n", "agent.yaml:1: not valid YAML"),
        ("node: \x00", "not valid YAML"),
        ("node: !!timestamp soon", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
    ],
)
def test_text_that_is_no_document(text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match="not valid YAML") as caught:
        read(text)
    assert problem in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.yaml: cannot read .*No such file"):
        load(tmp_path / "absent.yaml", Process)


def test_sizes_and_encodings_are_bounded(tmp_path: Path) -> None:
    big = tmp_path / "big.yaml"
    big.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigurationError, match="larger than"):
        load(big, Process)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"node: \xff\xfe")
    with pytest.raises(ConfigurationError, match=r"binary\.yaml: not UTF-8 text: .* at byte 6"):
        load(binary, Process)


def test_variables_take_the_type_they_expand_to() -> None:
    loaded = read("node: {name: '${NODE}'}\nport: ${PORT}\n", NODE="15008", PORT="15001")
    assert loaded.node.name == "15008"
    assert loaded.port == 15001


def test_variables_inside_text() -> None:
    assert read("node: {name: 'a-${A}-$$-${B}'}", A="1", B="${A}").node.name == "a-1-$-${A}"


@pytest.mark.parametrize("text", ["${}", "${a b}", "${open"])
def test_malformed_variables(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"agent\.yaml:1: \$\.node\.name: .* not of the form"):
        read(f"node: {{name: '{text}'}}")


def test_an_unset_variable_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"agent\.yaml:1: \$\.node\.name: .*NODE_NAME is not set"):
        read("node: {name: '${NODE_NAME}'}")


@given(st.text())
def test_a_value_cannot_become_structure(value: str) -> None:
    """Whatever the environment holds, it stays one scalar."""
    assert read("node: {name: '${X}'}", X=value).node.name == value


@given(st.text(max_size=200))
def test_any_text_loads_or_is_a_configuration_error(text: str) -> None:
    try:
        loaded = read(text)
    except ConfigurationError as caught:
        problem = str(caught)
    else:
        assert isinstance(loaded, Process)
        return
    assert problem.startswith("agent.yaml")


def test_a_lenient_struct_is_a_bug_of_ours() -> None:
    with pytest.raises(InternalError, match="Lenient must be frozen and forbid unknown fields"):
        decode("{}", "x", Holder)
