"""A certification authority whose key and certificate are PEM files beside the server.

In the room: nothing but the name of the package. The hooks stand in `kipuka_ca_local.plugin`.
"""
