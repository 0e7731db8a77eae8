"""Protocol buffer messages of the wire protocols: sources, and the modules generated from them.

What belongs here: ``*.proto``, the ``*_pb2`` modules that ``python -m mesh.wire.generate`` makes of them, and that
generator. What does not: any logic. Only codec and machine modules import the generated modules; everything else sees
the frozen values of ``mesh.model``.

The sources hold the subset that the mesh reads or writes, with the packages, message names and field numbers of the
public protocols. A field that is not listed is an unknown field, which protocol buffers skip. The files are registered
under ``mesh/wire/`` so that another package's copy of the same file name does not collide with ours.
"""
