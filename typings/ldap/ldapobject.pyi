from collections.abc import Sequence

from ldap.controls import LDAPControl
from ldap.extop import ExtendedRequest

class SimpleLDAPObject:
    def set_option(self, option: int, invalue: int) -> None: ...
    def extop(self, extreq: ExtendedRequest) -> int: ...
    def simple_bind(
        self, who: str | None = None, cred: str | None = None, serverctrls: Sequence[LDAPControl] | None = None
    ) -> int: ...
    def search_ext(
        self,
        base: str,
        scope: int,
        filterstr: str | None = None,
        attrlist: Sequence[str] | None = None,
        *,
        timeout: float = -1,
        sizelimit: int = 0,
    ) -> int: ...
    def result4(
        self, msgid: int, all: int = 1, timeout: float | None = None
    ) -> tuple[
        int | None,
        list[tuple[str | None, dict[str, list[bytes]]]] | None,
        int | None,
        list[LDAPControl],
        object,
        object,
    ]: ...
    def unbind_ext(self) -> None: ...
