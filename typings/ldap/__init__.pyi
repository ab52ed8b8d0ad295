"""The part of python-ldap that `kipuka_auth_ldap.connection` uses; the library brings no types of its own."""

from ldap import dn as dn
from ldap.ldapobject import SimpleLDAPObject

OPT_PROTOCOL_VERSION: int
OPT_REFERRALS: int
OPT_NETWORK_TIMEOUT: int
OPT_TIMEOUT: int
OPT_X_TLS_CACERTFILE: int
OPT_X_TLS_REQUIRE_CERT: int
OPT_X_TLS_DEMAND: int
OPT_X_TLS_PROTOCOL_MIN: int
OPT_X_TLS_PROTOCOL_TLS1_2: int
OPT_X_TLS_NEWCTX: int
SCOPE_BASE: int
SCOPE_SUBTREE: int
VERSION3: int

class LDAPError(Exception): ...
class FILTER_ERROR(LDAPError): ...
class TIMEOUT(LDAPError): ...

def initialize(uri: str) -> SimpleLDAPObject: ...
