"""What is told about requests: the record of one, its metrics, its line in the access log, its trace.

What belongs here: the value that the exchange fills while a request lives, and everything made of it afterwards. What
does not: the decision what happens to a request. All of it works on values; only modules named ``*driver`` send
anything, and lines leave through ``mesh.telemetry.output``.
"""
