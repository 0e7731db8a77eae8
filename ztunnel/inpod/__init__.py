"""The pods of this node: who they are, their network namespaces, the listening sockets inside, the agent's orders."""
