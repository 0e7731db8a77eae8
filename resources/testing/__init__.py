"""The test kit of ``resources``: an API server's double, for whoever talks to the Kubernetes API.

What belongs here: the double, its objects and its faults. What does not: tests, and anything a component needs to run.
"""
