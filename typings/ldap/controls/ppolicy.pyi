from ldap.controls import LDAPControl

class PasswordPolicyControl(LDAPControl):
    timeBeforeExpiration: int | None
    graceAuthNsRemaining: int | None
    error: int | None
    def __init__(self, criticality: bool = False) -> None: ...
