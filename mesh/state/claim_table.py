"""A dictionary whose keys may be claimed by several owners, of which one is current.

Addresses change hands: the news of the new pod with an address may come before the news that the old one is gone.
Taking the old one's claim away must then not take the new one's.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class ClaimTable(Generic[Key, Value]):
    """``current`` is for look-ups and never written from outside."""

    def __init__(self, *, owner_of: Callable[[Value], str], preference: Callable[[Value], int]) -> None:
        """Prepare an empty table.

        Args:
            owner_of: who claims, read from the value.
            preference: among several claims of a key the highest wins, among equal ones the latest.
        """
        self.current: dict[Key, Value] = {}
        self._contested: dict[Key, dict[str, Value]] = {}
        self._owner_of = owner_of
        self._preference = preference

    def claim(self, key: Key, value: Value) -> None:
        """Add a claim, or renew the owner's."""
        holder = self.current.get(key)
        owner = self._owner_of(value)
        if holder is None or (self._owner_of(holder) == owner and key not in self._contested):
            self.current[key] = value
            return
        claims = self._contested.setdefault(key, {self._owner_of(holder): holder})
        claims.pop(owner, None)  # A renewed claim is the latest.
        claims[owner] = value
        self._elect(key, claims)

    def release(self, key: Key, owner: str) -> None:
        """Take an owner's claim away; nothing happens if it has none."""
        claims = self._contested.get(key)
        if claims is None:
            holder = self.current.get(key)
            if holder is not None and self._owner_of(holder) == owner:
                del self.current[key]
            return
        claims.pop(owner, None)
        self._elect(key, claims)
        if len(claims) == 1:
            del self._contested[key]

    def _elect(self, key: Key, claims: dict[str, Value]) -> None:
        # max() keeps the first of equals: reversed, that is the latest.
        self.current[key] = max(reversed(claims.values()), key=self._preference)
