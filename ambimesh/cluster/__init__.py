"""A user's cluster, as the commands meet it.

What belongs here: the Kubernetes API through the user's kubeconfig (the ``kubernetes`` client's configuration,
authentication and transport, raw JSON in and out), its errors in the mesh's words, and pure readings of what it
answers. What does not: what an installation consists of (``ambimesh.chart``), and what is done to it
(``ambimesh.install``).
"""
