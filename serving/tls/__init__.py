"""TLS: between gateways and workers in a fleet (both show a certificate), and at a gateway's own ports.

Decisions

- Who may talk is what certificates say: one CA, and a name for each role. Addresses say nothing, since pods change
  theirs; a gateway therefore asks a worker for the role's name (`sluice-worker`), not for its host.
- A Unix socket stays as it is: only its user can open it, and it passes descriptors, which TLS cannot.
- TLS 1.2 at least, Python's default ciphers, no compression. Nothing is ever tried without TLS when it is asked for.
- Certificates are read again when their files change: rotation needs no restart. A CA that is taken away is trusted
  until the process ends, since OpenSSL does not forget one.
- A worker shakes hands without waiting: one slow peer must not stop the others' queries (`channel`).
"""
