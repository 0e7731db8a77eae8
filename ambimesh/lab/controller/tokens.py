"""Tokens of service accounts: what the API server gives to pods, and what the operator knows their holders by.

Every account gets one token, in a file that only root reads; whoever runs as the account is told the file. The operator
is told hashes only, in one file that is put in place whole.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

import yaml

from resources.objects import ServiceAccount

NODES_FILE = "nodes.yaml"
"""Entries that were there before any account: the node proxies'."""
KNOWN_FILE = "known.yaml"
"""What the operator reads."""


def token_of(folder: Path, namespace: str, account: str) -> Path:
    """The file that holds an account's token."""
    return folder / f"{namespace}_{account}.token"


class AccountTokens:
    """The tokens of a lab, kept in step with its accounts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._written: str | None = None

    def update(self, accounts: Iterable[ServiceAccount]) -> None:
        """Give every account a token; those of accounts that are gone are not known any more.

        A lab without the mesh has nobody who would ask for one.
        """
        if not (self._folder / NODES_FILE).exists():
            return
        names = sorted({(account.metadata.namespace, account.metadata.name) for account in accounts})
        nodes = yaml.safe_load((self._folder / NODES_FILE).read_text())["tokens"]
        entries = nodes + [
            {"sha256": self._hash(namespace, name), "namespace": namespace, "service_account": name}
            for namespace, name in names
        ]
        wanted = {token_of(self._folder, namespace, name) for namespace, name in names}
        for path in self._folder.glob("*_*.token"):
            if path not in wanted:
                path.unlink()
        text = yaml.safe_dump({"tokens": entries})
        if text != self._written:
            write_secret(self._folder / KNOWN_FILE, text)
            self._written = text

    def _hash(self, namespace: str, account: str) -> str:
        path = token_of(self._folder, namespace, account)
        if not path.exists():
            write_secret(path, secrets.token_urlsafe(32))
        return hashlib.sha256(path.read_text().encode()).hexdigest()


def write_secret(path: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.touch(mode=0o600)
    temporary.write_text(text)
    temporary.rename(path)
