"""A certification authority whose key never leaves an HSM: it signs through PKCS#11.

In the room: nothing but the name of the package. The hooks stand in `kipuka_ca_pkcs11.plugin`.
"""
