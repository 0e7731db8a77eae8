"""The layer-7 proxy: HBONE in, routing and policy of HTTP requests, HBONE out.

What belongs here: route matching, the filter chain and its upstreams. What does not: the tunnel itself and everything
else that ztunnel speaks as well; that is in ``mesh``, the only package of ours imported here.
"""
