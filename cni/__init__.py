"""The CNI plugin's logic and the node agent."""
