"""Certificates, with nothing of HTTP, the store or the EST protocol: names, keys, paths and profiles.

In the room: `names` (distinguished and alternative names: text, comparison), `keys` (which public keys are taken), `path`
(whether a certificate leads to a trust anchor), `profiles` (whose names go into a certificate). Everything here is a
function of its arguments: no clock, no file, no database. Not in the room: PKCS#10 and CMS (`kipuka.est`), signing (the
CA backends), revocation (the store).
"""
