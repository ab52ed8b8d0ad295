"""Who may come in when there are many: the connections that are open, counted by address and in all.

In the room: the limits on open connections, and who has to go when there is no more room. Not in the room: what a connection
is (`kipuka.http.tls`), where the limits come from (`kipuka.http.limits`).

A connection over its address's limit is refused. When all places are taken, one that waits (for its handshake to go on, or
for its next request) is closed in favour of the newcomer: the one that has waited longest, of the address that
has most connections. Thus whoever fills the server with idle connections loses his own, and a client with few gets in. An address
never displaces one that has fewer connections than itself, and a request under way is never cut off.

Of a connection that a load balancer forwards the client is known only when its PROXY header has come, a moment later. Until
then it is expected: it has no address to be counted for, makes no room and need not make any, and some may be expected beyond the last
place, so that a full server still learns who asks for one. The balancer itself has no limit, its clients have theirs.

There is no separate limit on handshakes under way. They count as connections, they are the first to be displaced, and each has
its deadline; a limit of their own would only make it cheaper to shut out the others behind the same address.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

from kipuka.store.lockouts import normal_address

__all__ = ["ConnectionLimit", "Connections", "Guest"]

ConnectionLimit = Literal["max_connections", "max_connections_per_address", "displaced"]
"""Why a connection was refused, or `displaced`: closed to make room for another."""

_MOST_LINGERING = 64
"""How many displaced connections may still be sending their last octets. They hold a file each."""


_MOST_BEYOND = 64
"""How many connections may be expected when all places are taken: their headers are on the way."""


class Guest(Protocol):
    """One connection."""

    def dismiss(self) -> bool:
        """End it, for another's sake. True when it is gone, False when it still sends what was written before."""
        ...


G = TypeVar("G", bound=Guest)


@dataclass(eq=False)
class _Group(Generic[G]):
    """The connections of one address; of IPv6, of one /64 network."""

    address: str
    members: set[G] = field(default_factory=set[G])
    waiting: OrderedDict[G, None] = field(default_factory=OrderedDict[G, None])  # the longest first
    rank: int = 0  # how many members, where one of them waits; else 0


class Connections(Generic[G]):
    """The open connections, each from `enter`, or `expect`, to `leave`. It waits from the beginning until `begin_request`.

    `on_limit` hears why a connection was refused or displaced, and of which address, as `normal_address` gives it.
    """

    def __init__(self, *, most: int, most_per_address: int, on_limit: Callable[[ConnectionLimit, str], None]) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._on_limit = on_limit
        self._groups: dict[str, _Group[G]] = {}
        self._home: dict[G, _Group[G]] = {}
        self._lingering: set[G] = set()
        self._expected: set[G] = set()
        self._peak = 0
        # Groups that have somebody who waits, by their size; in each, the one that came there first is the first.
        self._ranks: dict[int, OrderedDict[_Group[G], None]] = {}

    def __len__(self) -> int:
        return len(self._home) + len(self._expected)

    def __iter__(self) -> Iterator[G]:
        return iter((*self._home, *self._expected))

    def expect(self, guest: G, proxy: str) -> bool:
        """Whether a connection from a load balancer at `proxy` may come and say whose it is; `enter` follows."""
        if len(self) - len(self._lingering) >= self._most + _MOST_BEYOND:
            self._on_limit("max_connections", normal_address(proxy))
            return False
        self._expected.add(guest)
        self._peak = max(self._peak, len(self))
        return True

    def enter(self, guest: G, address: str) -> bool:
        """Whether there is room for a connection from `address`; if so it is counted from now on."""
        self._expected.discard(guest)
        name = normal_address(address) if address else ""  # a client that was gone before it could be asked
        group = self._groups.get(name)
        if group is not None and len(group.members) >= self._most_per_address:
            self._on_limit("max_connections_per_address", name)
            return False
        if len(self._home) - len(self._lingering) >= self._most and not self._make_room(group):
            self._on_limit("max_connections", name)
            return False
        group = self._groups.setdefault(name, _Group(name))  # whoever made room may have been its last member
        group.members.add(guest)
        group.waiting[guest] = None
        self._home[guest] = group
        self._peak = max(self._peak, len(self))
        self._place(group)
        return True

    def take_peak(self) -> int:
        """The largest number there was since this was asked last."""
        peak, self._peak = self._peak, len(self)
        return peak

    def leave(self, guest: G) -> None:
        """It is gone. A second time nothing happens."""
        self._lingering.discard(guest)
        self._expected.discard(guest)
        group = self._home.pop(guest, None)
        if group is None:
            return
        group.members.discard(guest)
        group.waiting.pop(guest, None)
        self._place(group)
        if not group.members:
            del self._groups[group.address]

    def begin_request(self, guest: G) -> None:
        """From now on it may not be displaced."""
        group = self._home.get(guest)
        if group is not None:
            group.waiting.pop(guest, None)
            self._place(group)

    def end_request(self, guest: G) -> None:
        """From now on it waits for its next request."""
        group = self._home.get(guest)
        if group is not None and guest not in self._lingering:
            group.waiting[guest] = None
            self._place(group)

    def _make_room(self, newcomers: _Group[G] | None) -> bool:
        size = 0 if newcomers is None else len(newcomers.members)
        top = max(self._ranks, default=0)
        if len(self._lingering) >= _MOST_LINGERING or not top:
            return False
        if newcomers is not None and newcomers.rank == top:
            group = newcomers  # of the largest it is our own that makes room
        elif top > size:
            group = next(iter(self._ranks[top]))
        else:
            return False
        guest = next(iter(group.waiting))
        del group.waiting[guest]
        self._place(group)
        self._on_limit("displaced", group.address)
        if guest.dismiss():
            self.leave(guest)
        else:
            self._lingering.add(guest)
        return True

    def _place(self, group: _Group[G]) -> None:
        rank = len(group.members) if group.waiting else 0
        if rank == group.rank:
            return
        if group.rank:
            peers = self._ranks[group.rank]
            del peers[group]
            if not peers:
                del self._ranks[group.rank]
        if rank:
            self._ranks.setdefault(rank, OrderedDict())[group] = None
        group.rank = rank
