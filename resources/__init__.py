"""Kubernetes-shaped objects and the places they are read from."""
