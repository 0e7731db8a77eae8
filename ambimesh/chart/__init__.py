"""The Helm chart, rendered without Helm.

What belongs here: reading ``deploy/helm/ambimesh``, the subset of Go's templates that its files keep to, its values and
their schema. Pure but for ``loading_driver``. What does not: talking to a cluster (``ambimesh.cluster``) and what is
done with the objects (``ambimesh.install``). The chart is the one description of an installation; that this renderer
and Helm make the same of it is tested with the real Helm.
"""
