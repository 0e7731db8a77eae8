"""The pods of this node: who they are, their network namespaces, the listening sockets inside, the agent's orders.

What belongs here: when a pod is served (``manager``), what serving it takes and how that ends (``server``), and sockets
made inside of it (``listeners``). What does not: what becomes of connections (``ztunnel.proxy``), and the packets the
agent's orders come in (``mesh.zds``).
"""
