"""The roles plugins play at run time. Small, asynchronous, and closed: a protocol never gains a method.

In the room: the three roles, and the optional abilities that the host looks for on what an opener gave. Not in the
room: how a plugin is found and opened (`kipuka.api.kinds`, `kipuka.api.hooks`).

Each asynchronous call runs under a time-out at the host's border and may be cancelled at any await. An exception out
of a plugin never reaches a client: it is logged, audited with the plugin's name, and answered as 503.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from cryptography import x509

from kipuka.api.events import AuditRecord
from kipuka.api.storage import Tx
from kipuka.api.values import AuthOutcome, CertificateChain, Credentials, Denied, Issued, Order, Pending

__all__ = [
    "AuditSink",
    "Authenticator",
    "CABackend",
    "CAPlan",
    "CollectsPending",
    "CountsFailures",
    "CreatedCA",
    "CreatesCA",
    "FindsOrders",
    "ReportsHealth",
    "RevokesCertificates",
    "SpendsOnIssue",
]


class Authenticator(Protocol):
    """Decides who sent a request from what the request presents.

    Since API 1.0.
    """

    @property
    def challenge(self) -> str | None:
        """One complete WWW-Authenticate value for a 401, or None for a method that HTTP cannot ask for."""
        ...

    async def authenticate(self, credentials: Credentials, /) -> AuthOutcome:
        """Judge this method's credential. Never raises for what a client sent; never spends anything."""
        ...


class CABackend(Protocol):
    """Signs certificates.

    Since API 1.0.
    """

    async def ca_certificates(self) -> CertificateChain:
        """The issuing certificate and its chain up to the root, as /cacerts shows it."""
        ...

    async def issue(self, order: Order, /) -> Issued | Pending:
        """Sign, or promise to. Raises `BackendUnavailable` when nothing was signed; any other exception, a time-out or a
        cancellation means unknown for a backend whose kind is `remote`, and not signed for one that is not.
        """
        ...


class AuditSink(Protocol):
    """Takes audit records somewhere else. Fed from the durable store, at least once, in order.

    Since API 1.0.
    """

    async def write(self, records: Sequence[AuditRecord], /) -> None:
        """Return when the records are safe there; raise when they are not, and they come again."""
        ...


@runtime_checkable
class SpendsOnIssue(Protocol):
    """An authenticator whose credential is used up by a certificate.

    The functions are synchronous and replayable and run inside the host's transactions, on any node, also after a
    crash. `ref` is that of the `Claim`. They touch the plugin's own tables only.

    Since API 1.0.
    """

    def reserve(self, tx: Tx, ref: str, /) -> Denied | None:
        """Hold one use; None when it is held. A refusal has written nothing."""
        ...

    def redeem(self, tx: Tx, ref: str, /) -> None:
        """The certificate is recorded in this same transaction: turn the held use into a spent one."""
        ...

    def release(self, tx: Tx, ref: str, /) -> None:
        """No certificate will come of it: give the held use back."""
        ...


@runtime_checkable
class CountsFailures(Protocol):
    """An authenticator that counts failures, among them credentials that are used up (`Denied.spent`).

    `authenticate` does not count those: it cannot know whether the host has an answer to give again. Other failures it counts itself.

    Since API 1.0.
    """

    async def count_failure(self, denied: Denied, credentials: Credentials, /) -> Denied:
        """This denial with `spent` stands: nothing was given again. What comes back is what the client hears, for instance
        that its address is locked now.
        """
        ...


@runtime_checkable
class CollectsPending(Protocol):
    """A CA backend that can be asked again for what it promised.

    Since API 1.0.
    """

    async def collect(self, ref: str, /) -> Issued | Pending:
        """What became of the request with the CA's reference `ref`. Raises `BackendUnavailable` when that
        is not known now, and `BackendFault` with reason "refused_by_ca" for a final refusal.
        """
        ...


@runtime_checkable
class FindsOrders(Protocol):
    """A CA backend that can tell what became of an order whose answer was lost.

    Since API 1.0.
    """

    async def find(self, order_id: str, /) -> Issued | Pending | None:
        """The outcome of that order, or None when the CA is certain that it never took it."""
        ...


@runtime_checkable
class RevokesCertificates(Protocol):
    """A CA backend that can take a certificate back.

    Since API 1.0.
    """

    async def revoke(self, certificate: x509.Certificate, reason: x509.ReasonFlags, /) -> None:
        """Revoke it at the CA; `remove_from_crl` ends a hold. Raises `BackendUnavailable` when that is not certain.

        The host's own record says so already, and the host asks again until this returns: being asked twice, or for what
        the CA has on record, is no error. Another reason than before may follow, as `kipuka cert revoke` allows it.
        """
        ...


@runtime_checkable
class ReportsHealth(Protocol):
    """Any opened object that can say whether it works at the moment.

    Since API 1.0.
    """

    async def health(self) -> str | None:
        """None when all is well, else one sentence for the operator."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class CAPlan:
    """What `kipuka ca create` asks a backend to make: a root, and an issuing CA under it.

    Since API 1.0.
    """

    id: str
    directory: Path
    common_name: str
    key_type: str  # "rsa2048", "rsa3072", "rsa4096", "p256", "p384", "p521" or "ed25519"
    root_days: int
    issuing_days: int
    passphrase: bytes | None = field(default=None, repr=False)
    options: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """What the backend needs beyond that, for instance where its token is: KEY and VALUE of each `--set KEY=VALUE`, as written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CreatedCA:
    """A new CA: its chain, the keys of its [[ca]] item (paths as written), and what was made where.

    Since API 1.0.
    """

    chain: CertificateChain
    settings: Mapping[str, str]
    files: tuple[Path, ...]


class CreatesCA(Protocol):
    """A CA kind that can make a new authority. It is part of the kind, since nothing can be opened before it exists.

    Since API 1.0.
    """

    def create(self, plan: CAPlan, /) -> CreatedCA:
        """Make it. Raises FileExistsError rather than overwrite anything."""
        ...
