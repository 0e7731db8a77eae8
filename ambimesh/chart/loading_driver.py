"""The chart from where it lies, with an installation's values: to the objects to be applied."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ambimesh.chart import values as chart_values
from ambimesh.chart.rendering import Renderer
from mesh.errors import ConfigurationError, EnvironmentLacks

_PACKAGES = Path(__file__).resolve().parents[2]
PLACES = (_PACKAGES / "deploy" / "helm" / "ambimesh", _PACKAGES / "ambimesh" / "chart" / "files")
"""In a checkout, and in an installed package."""
SERVICE = "ambimesh"
"""What ``Release.Service``, and so the label ``app.kubernetes.io/managed-by``, says; with Helm it is ``Helm``."""


@dataclass(frozen=True, slots=True)
class Chart:
    """The chart's files."""

    name: str
    version: str
    app_version: str
    templates: Mapping[str, str]
    """Text by the name that messages show."""
    defaults: Mapping[str, Any]


def load_chart(folder: Path | None = None) -> Chart:
    """Read the chart.

    Args:
        folder: the one that came with this program, when left out.

    Raises:
        EnvironmentLacks: it is not there, or cannot be read.
        ConfigurationError: it is no chart.
    """
    place = folder or next((each for each in PLACES if each.is_dir()), PLACES[0])
    try:
        about = yaml.safe_load((place / "Chart.yaml").read_text())
        defaults = yaml.safe_load((place / "values.yaml").read_text())
        templates = {
            f"templates/{file.name}": file.read_text()
            for file in sorted((place / "templates").iterdir())
            if file.suffix in (".yaml", ".tpl", ".txt")
        }
    except OSError as error:
        raise EnvironmentLacks(f"the chart in {place} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"the chart in {place}: {error}") from error
    return Chart(about["name"], about["version"], str(about["appVersion"]), templates, defaults)


def render(
    chart: Chart,
    given: Mapping[str, Any],
    *,
    namespace: str,
    release: str = "ambimesh",
    service: str = SERVICE,
    api_versions: Collection[str] = (),
) -> list[dict[str, Any]]:
    """The objects of an installation, in the order of the chart's files.

    Args:
        chart: its files.
        given: values that differ from the chart's defaults.
        namespace: where the mesh's own parts go.
        release: the installation's name.
        service: who manages it.
        api_versions: what the cluster has, as ``group/version/Kind``.

    Raises:
        ConfigurationError: a value is wrong, or a template.
    """
    values = chart_values.merged(chart.defaults, given)
    chart_values.decode(values, "values")  # to refuse what is wrong; templates see what they see with Helm
    root = {
        "Values": values,
        "Release": {"Name": release, "Namespace": namespace, "Service": service},
        "Chart": {"Name": chart.name, "Version": chart.version, "AppVersion": chart.app_version},
        "Capabilities": {"APIVersions": {"Has": frozenset(api_versions).__contains__}},
    }
    renderer = Renderer(chart.templates, root)
    objects: list[dict[str, Any]] = []
    for name in chart.templates:
        if name.endswith(".yaml"):
            try:
                objects += [each for each in yaml.safe_load_all(renderer.render(name)) if each]
            except yaml.YAMLError as error:
                raise ConfigurationError(f"{name} does not come out as YAML: {error}") from error
    return objects
