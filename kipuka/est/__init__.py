"""The EST protocol (RFC 7030, RFC 8951) as pure functions of bytes and values, with nothing of HTTP, the store or a CA.

In the room: `wire` (bodies to DER and back, content types), `csr` (a PKCS#10 request as a checked value, its proof of
possession), `binding` (whether a request was signed for this TLS connection), `cms` (certificates as a certs-only
message). No clock, no randomness, no file. Not in the room: which names and keys are granted (`kipuka.x509`), who may ask
(`kipuka.authentication`), status codes (`kipuka.http`).
"""
