"""The benchmark suite and its recorded figures: ``python -m benchmarks``.

What belongs here: loads, measurements with and without the mesh in the same run, and the table they make. Not a test:
nothing here passes or fails by a time. May import everything.
"""
