"""ZDS: how the node agent hands pods to the node's ztunnel.

What belongs here: the messages (``codec``), one packet with its descriptor on a unix socket (``packet_driver``), the
agent's side (``server_driver``) and ztunnel's side (``client_driver``). What does not: what either side does with a
pod.

The wire is Istio's: protobuf messages, one per SOCK_SEQPACKET packet of at most 1024 bytes, a pod's network namespace
as an SCM_RIGHTS descriptor on Add and on nothing else, strict request and acknowledgement.
"""
