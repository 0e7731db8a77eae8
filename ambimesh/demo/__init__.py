"""The main job, shown line by line, each with what was measured.

What belongs here: a stage (``stage``), which is a lab of its own with the shipped manifests, and one function per line
that does something on it, measures, and either states the evidence or says what is missing. Nothing is assumed: bytes
are read off the wire, records out of logs, counters out of metrics pages.
"""
