"""Where requests go: endpoints, how one is chosen, what is known of their health, and the connections to them.

What belongs here: balancing, outliers, limits, health checks, and connection pools. What does not: which service a
request is for (``waypoint.routing``), and what happens to it when an endpoint fails (``waypoint.exchange``).
"""
