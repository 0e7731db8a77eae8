"""An import-linter contract for modules known by their names' endings, such as ``*codec`` and ``*machine``.

import-linter's own contracts name modules whole; the rule here is about a part of the name, wherever the module lives.
"""

from __future__ import annotations

from typing import cast

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class PureModulesContract(Contract):
    """Modules whose names end so, and some others with all they hold, reach none of the forbidden modules."""

    type_name = "pure_modules"

    name_endings = fields.ListField(subfield=fields.StringField())
    and_modules = fields.ListField(subfield=fields.StringField())
    forbidden_modules = fields.ListField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Look for the shortest way from each pure module to each forbidden one."""
        named = set(cast("list[str]", self.and_modules))
        absent = named - graph.modules
        if absent:
            raise ValueError(f"and_modules names what does not exist: {', '.join(sorted(absent))}")
        endings = tuple(cast("list[str]", self.name_endings))
        pure = {module for module in graph.modules if module.rpartition(".")[2].endswith(endings)}
        for module in named:
            pure |= {module} | graph.find_descendants(module)
        chains = []
        for module in sorted(pure):
            for forbidden in cast("list[str]", self.forbidden_modules):
                if forbidden in graph.modules:
                    chain = graph.find_shortest_chain(importer=module, imported=forbidden)
                    if chain is not None:
                        chains.append(chain)
        return ContractCheck(kept=not chains, metadata={"chains": chains})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print each way as a chain of imports."""
        for chain in check.metadata["chains"]:
            output.print_error(f"{chain[0]} must do no I/O, but reaches {chain[-1]}:")
            output.indent_cursor()
            output.print_error(" -> ".join(chain))
            output.new_line()
