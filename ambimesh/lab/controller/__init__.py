"""What stands in for the Kubernetes control plane's own controllers.

What belongs here: pure functions from the objects of the store to the objects that should be there (placement of pods,
addresses of Services, endpoint slices, defaults), and the one loop that writes the difference. It knows nothing of the
mesh.
"""
