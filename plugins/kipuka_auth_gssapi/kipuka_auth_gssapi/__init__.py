"""Kerberos for kipuka.

In the room: nothing; the entry point is `kipuka_auth_gssapi.plugin`.
"""
