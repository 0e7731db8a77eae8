"""Whether an object that is there says all that it should. Pure.

Others add to what we write: an API server fills defaults in, controllers write status and allocate addresses, people
label. So an object is right when everything that we would write stands in it, whatever else does.
"""

from __future__ import annotations

from typing import Any

import msgspec

from resources.objects import KubernetesObject


def says(existing: KubernetesObject, wished: KubernetesObject) -> bool:
    """Whether everything that ``wished`` sets stands in ``existing``."""
    return _contains(msgspec.to_builtins(existing), msgspec.to_builtins(wished))


def same_owner(existing: KubernetesObject, wished: KubernetesObject) -> bool:
    """Whether an object is of the same owner, and so ours to change."""
    uids = {owner.uid for owner in wished.metadata.owner_references}
    return any(owner.uid in uids for owner in existing.metadata.owner_references)


def _contains(existing: Any, wished: Any) -> bool:
    if isinstance(wished, dict):
        return isinstance(existing, dict) and all(
            key in existing and _contains(existing[key], value) for key, value in wished.items()
        )
    if isinstance(wished, list | tuple):
        return (
            isinstance(existing, list | tuple)
            and len(existing) == len(wished)
            and all(_contains(have, want) for have, want in zip(existing, wished, strict=True))
        )
    return bool(existing == wished)
