"""``python -m ambimesh.chart``: write the chart's ``values.schema.json`` from its values' types."""

from __future__ import annotations

import json
import sys

from ambimesh.chart.loading_driver import PLACES
from ambimesh.chart.values import schema


def main() -> int:
    """Write the file; returns the exit status."""
    (PLACES[0] / "values.schema.json").write_text(json.dumps(schema(), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
