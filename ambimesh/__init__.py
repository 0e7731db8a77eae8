"""The front door: the ambimesh command and the lab."""
