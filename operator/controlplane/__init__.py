"""The operator: it tells the mesh what it looks like and who its members are.

What belongs here: translation of Kubernetes objects into the mesh's model (``translate``, pure), the certificate
authority (``ca``), and the process that reads a source, serves both over one TLS port and shows its state over HTTP.

What does not: the objects themselves (``resources``), protocols (``mesh``), anything a node does. The folder above is
no package on purpose: ``operator`` is a module of the standard library.
"""
