"""The endpoints of a service, as a waypoint's requests see them: which one is chosen, which are left out, how many
requests may be under way, and the connections that carry them.

What belongs here: endpoints taken from the state of the mesh, balancing, localities, outliers, health, limits, pools of
connections. What does not: routes (which choose the service) and the life of a request (which asks for an endpoint and
says what became of it). Chance and time are arguments of everything but the drivers.
"""
