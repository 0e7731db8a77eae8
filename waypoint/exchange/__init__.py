"""The life of one request: from its head, through a decision, over one or more attempts at endpoints, to its record.

What belongs here: timeouts, retries, mirrors, aborts, what an answer made here looks like, the facts for metrics and
logs. What does not: what is decided (``waypoint.routing``, ``waypoint.security``; the seam is ``decision``), how HTTP
is read and written (``waypoint.http``), and which connections there are (``waypoint.upstream``).
"""
