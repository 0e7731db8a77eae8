"""Chaining ambimesh-cni into a node's CNI configuration; ``python -m cni.installer install|uninstall``.

What belongs here: what the configuration is to become (``conflist``, pure) and putting it there (``driver``). What does
not: anything about pods.
"""
