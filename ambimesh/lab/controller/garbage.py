"""Objects whose owners are gone. Pure. What Kubernetes' garbage collector does."""

from __future__ import annotations

from resources.object_set import ObjectSet
from resources.objects import KINDS, ObjectKey


def orphans(objects: ObjectSet) -> list[ObjectKey]:
    """Objects with owners, none of which is there; one of a kind that is not kept here counts as being there."""
    uids = {value.metadata.uid for value in objects.values()}
    return [
        value.key
        for value in objects.values()
        if value.metadata.owner_references
        and all(owner.kind in KINDS and owner.uid not in uids for owner in value.metadata.owner_references)
    ]
