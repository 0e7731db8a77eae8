"""The kernel side of the mesh and its typed Python edge."""
