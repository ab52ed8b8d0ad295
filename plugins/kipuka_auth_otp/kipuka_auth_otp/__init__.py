"""One-time passwords for kipuka: a token made by an administrator enrols a device that has no certificate yet.

In the room: nothing but the name of the package. The hooks stand in `kipuka_auth_otp.plugin`.
"""
