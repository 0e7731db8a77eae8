"""Deployments as they are written, read and written again."""

from __future__ import annotations

import yaml

from resources.decode import decode_documents
from resources.deployment import DeploymentSpec
from resources.encode import to_yaml
from resources.objects import Deployment

TEXT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: demo}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: web}]}
status: {readyReplicas: 1, observedGeneration: 4}
"""


def test_a_deployment_survives_reading_and_writing() -> None:
    [read], problems = decode_documents(TEXT, "file")
    assert problems == []
    assert isinstance(read, Deployment)
    assert isinstance(read.spec, DeploymentSpec)
    assert (read.spec.replicas, read.spec.template.metadata.labels) == (2, {"app": "web"})
    assert read.status is not None
    assert (read.status.ready_replicas, read.status.observed_generation, read.status.replicas) == (1, 4, 0)
    written = yaml.safe_load(to_yaml(read))
    assert written["spec"]["template"]["spec"]["containers"][0]["name"] == "c"
    [again], _ = decode_documents(to_yaml(read), "file")
    assert again == read


def test_a_misspelt_field_is_a_problem() -> None:
    objects, problems = decode_documents(TEXT.replace("replicas: 2", "replicaz: 2"), "file")
    assert objects == []
    assert "replicaz" in str(problems[0])
