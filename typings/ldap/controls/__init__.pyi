from collections.abc import Sequence

class LDAPControl:
    controlType: str
    criticality: bool

def DecodeControlTuples(ldapControlTuples: Sequence[tuple[str, bool, bytes | None]] | None) -> list[LDAPControl]: ...
