"""Putting our plugin into a node's CNI configuration, and taking it out. Pure: file contents in, file contents out.

A configuration is a ``.conflist`` (a list of plugins) or a ``.conf`` (one plugin); the runtime uses the first usable
file of its folder in the order of names. A ``.conf`` is wrapped into a conflist. Keys we do not know are kept as they
are, in their order; an entry of ours that is already as it should be changes nothing, so nobody is provoked to write
again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mesh.errors import ConfigurationError

PLUGIN_TYPE = "ambimesh-cni"
SUFFIXES = (".conflist", ".conf", ".json")
MAXIMUM_FILE = 1 << 20

_DEFAULT_NAME = "k8s-pod-network"
_DEFAULT_VERSION = "0.3.1"

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Configuration:
    """A usable file: its document, and whether it is a list already."""

    document: JsonObject
    is_list: bool


def is_candidate(name: str) -> bool:
    """Whether a runtime would look at a file of this name."""
    return name.endswith(SUFFIXES) and not name.startswith(".")


def read(content: bytes, place: str) -> Configuration:
    """Read a configuration file.

    Raises:
        ConfigurationError: no runtime could use it; the message names ``place`` and what is wrong.
    """
    if len(content) > MAXIMUM_FILE:
        raise ConfigurationError(f"{place}: longer than {MAXIMUM_FILE} bytes, which no CNI configuration is")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{place}: not JSON: {error}; it is left untouched, correct or remove it") from error
    if not isinstance(document, dict):
        raise ConfigurationError(f"{place}: not a JSON object; it is left untouched, correct or remove it")
    if "plugins" not in document:
        if not isinstance(document.get("type"), str):
            raise ConfigurationError(f"{place}: neither 'plugins' nor 'type': no CNI configuration, left untouched")
        return Configuration(document, is_list=False)
    plugins = document["plugins"]
    if not isinstance(plugins, list) or not all(
        isinstance(plugin, dict) and isinstance(plugin.get("type"), str) for plugin in plugins
    ):
        raise ConfigurationError(f"{place}: 'plugins' is no list of objects with a 'type'; it is left untouched")
    if not any(plugin["type"] != PLUGIN_TYPE for plugin in plugins):
        raise ConfigurationError(f"{place}: 'plugins' holds no plugin that makes a network; it is left untouched")
    if not isinstance(document.get("name"), str):
        raise ConfigurationError(f"{place}: a list without a 'name'; it is left untouched")
    return Configuration(document, is_list=True)


def target_name(name: str) -> str:
    """The name of the conflist that takes the place of this file."""
    return f"{name.rpartition('.')[0]}.conflist"


def has_entry(configuration: Configuration) -> bool:
    """Whether our plugin is chained in."""
    return configuration.is_list and any(plugin["type"] == PLUGIN_TYPE for plugin in configuration.document["plugins"])


def with_entry(configuration: Configuration, entry: JsonObject) -> JsonObject | None:
    """The document with our entry chained in once; None when it is so already."""
    document = configuration.document
    if not configuration.is_list:
        inner = {key: value for key, value in document.items() if key not in ("name", "cniVersion")}
        return {
            "cniVersion": document.get("cniVersion", _DEFAULT_VERSION),
            "name": document.get("name", _DEFAULT_NAME),
            "plugins": [inner, entry],
        }
    ours = [plugin for plugin in document["plugins"] if plugin["type"] == PLUGIN_TYPE]
    if ours == [entry] and document["plugins"][0] != entry:
        return None
    return {**document, "plugins": [*_others(document["plugins"]), entry]}


def without_entry(configuration: Configuration) -> JsonObject | None:
    """The document without our entries; None when it has none."""
    if not has_entry(configuration):
        return None
    return {**configuration.document, "plugins": _others(configuration.document["plugins"])}


def _others(plugins: Iterable[JsonObject]) -> list[JsonObject]:
    return [plugin for plugin in plugins if plugin["type"] != PLUGIN_TYPE]


def encode(document: JsonObject) -> bytes:
    """The file's new content."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
