"""The certificates of the identities that a proxy speaks for: all that run on a node, or the proxy's own.

What belongs here: asking the certificate service, checking what it answers, keeping credentials fresh, and TLS contexts
made of them. What does not: who runs here (the callers say), and the handshake (``mesh.tls``). Private keys are made
here and never leave the process.
"""
