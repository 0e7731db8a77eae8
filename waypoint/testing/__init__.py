"""The waypoint's test kit: wires, clocks and endpoints without a network.

What belongs here: what tests of several packages stand on. What does not: anything that runs in a waypoint.
"""
