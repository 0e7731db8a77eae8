"""Layer 7: the waypoint's HTTP engine and Envoy as equally configured plain proxies, and the whole mesh.

What belongs here: what both proxies are told, the processes, cases, figures and tables of these loads. What does not:
the lab's bed and loads of layer 4 (one level up), and the program that makes the load (``benchmarks/load/http.c``).
"""
