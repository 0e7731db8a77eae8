"""Kubernetes objects, and the folder of manifests they are read from and written to.

What belongs here: typed, frozen values of the kinds the mesh reads; decoding of YAML and JSON documents with errors
that name file, document and field; the immutable set of objects a component works from; the watched folder; the folder
store through which the lab's controllers write.

What does not: what the objects mean to the mesh (``controlplane.translate``), any network client. This package imports
``mesh`` only. ``folder_source`` and ``folder_store`` are its only modules that touch the file system.
"""
