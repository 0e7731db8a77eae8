"""TLS of the mesh: credentials, contexts, who the peer is, the handshake, giving its keys to the kernel.

What belongs here: everything that turns credentials into an ``ssl.SSLContext`` and a certificate into an identity, what
all issuers of certificates write alike, the handshake on memory BIOs, what the kernel's TLS is told and tells. What
does not: where credentials come from (``mesh.certificates``, the certificate authority), HTTP/2, and the relaying of
bytes after the handshake.

Private keys stay in this process: OpenSSL reads them from an anonymous memory file, never from a disk.
"""
