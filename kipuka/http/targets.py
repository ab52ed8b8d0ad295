"""What a request is for, as its header says it: the host, and the path with its query.

In the room: pure functions over octets, the same for every version of HTTP. Not in the room: which paths lead to a resource
(`kipuka.http.door`).
"""

from __future__ import annotations

import re

__all__ = ["is_host", "origin_form"]

# RFC 3986, 3.2.2 and 3.2.3, of what names a host in the DNS; Quart cannot route a request for a longer label.
_HOST = re.compile(
    rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63}){0,127}\.?)?(?::[0-9]{0,5})?"
)


def is_host(value: bytes) -> bool:
    """Whether this is a host with or without a port, as in a Host field or an `:authority`. Empty is one."""
    return _HOST.fullmatch(value) is not None


def origin_form(target: bytes) -> bytes | None:
    """Path and query of a request's target, which may be written as a whole URL; None where it has neither form.

    RFC 9112, 3.2.1 and 3.2.2. The form of CONNECT is for proxies, and that of `OPTIONS *` asks for nothing we have.
    """
    if target.startswith(b"/"):
        return target
    scheme, mark, rest = target.partition(b"://")
    if not mark or scheme.lower() not in {b"http", b"https"}:
        return None
    authority, slash, path = rest.partition(b"/")
    if not authority or b"?" in authority or b"#" in authority:
        return None
    return slash + path if slash else b"/"
