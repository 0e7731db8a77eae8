"""Whose ztunnels are meant, and how an answer is printed: the options that all ``ambimesh ztunnel-config`` share.

A command takes a :class:`Ztunnels` as its first parameter and is given to :func:`about_ztunnels`, which puts the
options into its signature, where typer looks for them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Concatenate, TypeVar

import trio
import typer

from ambimesh.cluster import ztunnels
from ambimesh.cluster.client_driver import Cluster
from ambimesh.commands.options import Context, LabName, MeshNamespace, Output
from ambimesh.commands.target import cluster_of
from ambimesh.dump_codec import Dump
from ambimesh.lab import record, ztunnel_admin
from ambimesh.lab.layout import DEFAULT_LAB, LabLayout
from ambimesh.lab.record import Lab
from ambimesh.output import OutputFormat

Answer = TypeVar("Answer")
NodeName = Annotated[str, typer.Option("--node", help="Whose ztunnel; every node's when left out.")]


@dataclass(frozen=True, slots=True)
class Ztunnels:
    """What the shared options say."""

    out: OutputFormat
    node: str
    context: str | None
    mesh_namespace: str
    lab: str

    def dumps(self) -> dict[str, Dump]:
        """By node, what its ztunnel works from. Raises as :meth:`ask`."""
        return self._each(ztunnels.fetch, ztunnel_admin.fetch)

    def ask(self, path: str, method: str = "GET") -> dict[str, bytes]:
        """By node, what the admin port of its ztunnel answers.

        Raises:
            ConfigurationError: there is no such lab, cluster or node.
            MeshError: a ztunnel cannot be reached, or refuses.
        """
        return self._each(
            lambda cluster, namespace, pod: ztunnels.ask(cluster, namespace, pod, path, method),
            lambda lab, node: ztunnel_admin.ask(lab, node, path, method),
        )

    def _each(
        self,
        in_cluster: Callable[[Cluster, str, str], Answer],
        in_lab: Callable[[Lab, str], Awaitable[Answer]],
    ) -> dict[str, Answer]:
        cluster = cluster_of(self.lab, self.context)
        if cluster is not None:
            pods = ztunnels.pods(cluster, self.mesh_namespace, self.node)
            return {node: in_cluster(cluster, self.mesh_namespace, pod) for node, pod in sorted(pods.items())}
        lab = record.require(LabLayout.named(self.lab))
        names = [lab.node(self.node).name] if self.node else [one.name for one in lab.nodes]
        return {name: trio.run(in_lab, lab, name) for name in names}


SHARED: Sequence[inspect.Parameter] = [
    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    for name, default, annotation in (
        ("node", "", NodeName),
        ("out", OutputFormat.SHORT, Output),
        ("context", None, Context),
        ("mesh_namespace", "ambimesh-system", MeshNamespace),
        ("lab", DEFAULT_LAB, LabName),
    )
]


def about_ztunnels(command: Callable[Concatenate[Ztunnels, ...], None]) -> Callable[..., None]:
    """The command with the shared options, after its own."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    @functools.wraps(command)
    def called(**given: Any) -> None:
        shared = Ztunnels(**{each.name: given.pop(each.name) for each in SHARED})
        command(shared, **given)

    signature = inspect.Signature(
        [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own] + list(SHARED), return_annotation=None
    )
    called.__signature__ = signature  # type: ignore[attr-defined]
    called.__annotations__ = {each.name: each.annotation for each in signature.parameters.values()}
    return called
