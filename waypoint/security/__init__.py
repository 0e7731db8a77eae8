"""Who may make which requests, and how many: request authorization, tokens, external authorizers, rate limits.

What belongs here: policies compiled and decided, JWTs verified, key sets fetched and kept, buckets counted, and the
codecs and drivers of whoever is asked outside. What does not: the order of the filters in a request's life, and routes
(whose path and text comparisons are used here, so that a policy and a route never see two different paths).
"""
