"""The test kit that ships with the mesh, typed as the product is.

What belongs here: doubles and builders that the tests of more than one package need: a certificate authority, makers of
model values, byte pipes under adverse conditions. What does not: pytest fixtures (``tests/``), and anything trio's own
kit already has (memory streams, clocks). Production modules never import this package.
"""
