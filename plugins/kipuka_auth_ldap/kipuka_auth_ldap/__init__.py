"""Directory name and password for kipuka: see README.md. In the room: nothing; the entry point names `kipuka_auth_ldap.plugin`."""
