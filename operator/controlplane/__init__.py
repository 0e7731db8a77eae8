"""The control plane: sources, translation, xDS server, certificate authority."""
