"""The certificate authority.

What belongs here: keeping or making the signing key (``authority``), signing (``issuer``), who calls
(``authentication``), which identities live on which node (``placement``), and the certificate service (``server``).

What does not: transport (``mesh.grpc``), the workloads' side of certificates (``mesh.certificates``). Nothing is signed
that a caller has no claim to: an identity goes to itself, or to a trusted node proxy while a pod of it runs there.
"""
