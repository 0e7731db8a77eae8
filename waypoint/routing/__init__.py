"""Which route serves a request, and what the route does to it.

What belongs here: destinations' ports compiled to tables, the comparison of texts, paths, headers and queries, and the
actions of a route as functions of values (header changes, rewrites, redirects, CORS, faults, weights, retries, session
cookies). What does not: the order in which the actions happen in a request's life, and anything that waits. Chance and
time are arguments. A model is compiled once, when it arrives; per request there are look-ups in tables and calls of
what was compiled.
"""
