"""Putting the mesh into a cluster, changing it there, and taking it out.

What belongs here: in which order the chart's objects go in and out, when a part counts as there, what its pods say when
it does not come up, what is remembered of an installation, and what of a cluster is looked at before and after. The
judgements are pure; the drivers ask the cluster and wait. What does not: the objects themselves (``ambimesh.chart``),
requests (``ambimesh.cluster``), and what is printed (``ambimesh.commands``).
"""
