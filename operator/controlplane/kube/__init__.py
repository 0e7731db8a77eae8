"""What the operator does with the Kubernetes API beside reading objects from it.

What belongs here: who calls, by TokenReview (``token_review_*``); which replica writes, by a Lease (``lease_*``); the
root in a Secret (``root_secret_*``) and its certificates in ConfigMaps (``trust_bundle_*``); nodes' taints
(``node_taint*``); events (``happenings_*``); and objects and their status by server-side apply (``writer_driver``);
``controlplane.platform`` puts them together. ``permissions`` is the one list of what all of it must be allowed to do:
who needs a further right adds it there, and installations are made from it.

What does not: reading objects and talking to the API server at all (``resources.kube``, on which this stands), what
objects mean (``controlplane.translate``), what is to be written (``controlplane.reconcile``).
"""
