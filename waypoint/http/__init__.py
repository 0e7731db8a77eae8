"""HTTP on the wire: requests and responses as values, and the machines that read and write HTTP/1.1 and HTTP/2.

What belongs here: framing, strictness (what is refused, with which status), hop-by-hop headers, and one form of message
for both versions. What does not: routing, policy, and which connection a message travels on. Machines do no I/O: bytes
go in by ``receive``, come out by a sink they are given.
"""
