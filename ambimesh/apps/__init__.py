"""Ordinary programs for pods, as an application's author would write them: nothing here knows of a mesh.

What belongs here: small servers that manifests run with ``python3 -m ambimesh.apps.NAME``. They use the standard
library only, so that they start at once and cost little.
"""
