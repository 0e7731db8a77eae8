"""Where requests go: endpoints, the choice among them, and the connections to each.

What belongs here: balancing, limits, outliers and health as machines and pure choices; pools of connections; how an
endpoint is dialled. What does not: which service a request goes to (``waypoint.routing``), and how HTTP is read and
written (``waypoint.http``).
"""
