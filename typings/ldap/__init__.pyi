"""The part of python-ldap that `kipuka_auth_ldap.connection` uses; the library brings no types of its own."""

from ldap import dn as dn
from ldap.ldapobject import SimpleLDAPObject

OPT_PROTOCOL_VERSION: int
OPT_REFERRALS: int
RES_SEARCH_ENTRY: int
RES_SEARCH_REFERENCE: int
SCOPE_BASE: int
SCOPE_SUBTREE: int
VERSION3: int

class LDAPError(Exception): ...
class FILTER_ERROR(LDAPError): ...

def initialize(uri: str, *, fileno: int | None = None) -> SimpleLDAPObject: ...
