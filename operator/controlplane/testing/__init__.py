"""The operator's test kit, shipped with it: whoever builds on the translation tests against it with the same means.

What belongs here: a small mesh as YAML, manifests of routes, and readings of what a translator has made of them. What
does not: tests, and anything that the operator itself needs.
"""
