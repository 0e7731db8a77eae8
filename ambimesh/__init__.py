"""The front door: the ``ambimesh`` command, and the lab it can bring up.

What belongs here: what a person types (``commands``) and reads (``output``), the lab, a cluster in network namespaces
(``lab``), the ordinary programs its shipped manifests run (``apps``, ``manifests``) and the main job with its
evidence (``demo``). This package may import every other one of ours; none may import it. It decides nothing about
traffic: the lab starts the very processes that run in a cluster and only stands in for what Kubernetes would be.
"""
