"""A real Kubernetes on one machine, for tests: built from its Go modules, started in seconds, ended without a trace.

What belongs here: building the programs, running a control plane and nodes, making images, and what a test asks of a
cluster. What does not: tests (the folder above), anything the product needs, and stand-ins for Kubernetes: whatever
runs here is the program that runs in clusters. May import ``mesh``; everything is synchronous, because fixtures of a
whole session outlive every trio run. Ends only processes it started; changes no setting of the machine.
"""
