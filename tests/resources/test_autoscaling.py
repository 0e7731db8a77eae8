"""Autoscalers and disruption budgets, as an API server answers them."""

from __future__ import annotations

from resources.autoscaling import AutoscalerStatus, DisruptionBudgetStatus
from resources.decode import decode_documents
from resources.objects import HorizontalPodAutoscaler, PodDisruptionBudget

TEXT = """
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: w, namespace: demo}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: w}
  minReplicas: 1
  maxReplicas: 4
  metrics:
  - type: Resource
    resource: {name: cpu, target: {type: Utilization, averageUtilization: 70}}
status:
  currentReplicas: 2
  desiredReplicas: 3
  currentMetrics: null
  conditions:
  - {type: AbleToScale, status: "True", reason: ReadyForNewScale, message: m}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: w, namespace: demo}
spec: {maxUnavailable: 1, selector: {matchLabels: {a: b}}}
status: {disruptionsAllowed: 1, currentHealthy: 2, desiredHealthy: 1, expectedPods: 2, observedGeneration: 1}
"""


def test_they_are_read_with_their_status() -> None:
    (autoscaler, budget), problems = decode_documents(TEXT, "test")
    assert problems == []
    assert isinstance(autoscaler, HorizontalPodAutoscaler)
    assert autoscaler.spec.scale_target_ref.name == "w"
    assert isinstance(autoscaler.status, AutoscalerStatus)
    assert autoscaler.status.desired_replicas == 3
    assert isinstance(budget, PodDisruptionBudget)
    assert budget.spec.max_unavailable == 1
    assert budget.spec.selector.match_labels == {"a": "b"}
    assert isinstance(budget.status, DisruptionBudgetStatus)
    assert budget.status.disruptions_allowed == 1


def test_a_field_that_does_not_exist_is_a_problem() -> None:
    _, problems = decode_documents(TEXT.replace("maxReplicas", "mostReplicas"), "test")
    assert problems
