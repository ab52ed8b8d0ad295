"""Signing with a key on a token: from an order to a certificate, off the event loop.

In the room: what a client hears while the token is away, and that the authority comes back by itself. Not in the room: the certificate's
fields (`kipuka_ca_local.backend`), and how the token is found and kept (`kipuka_ca_pkcs11.tokens`).

The kind is not `remote`, wherever the HSM stands: it signs octets and keeps nothing of them, and a certificate comes into being only where this
process puts its signature under it. When there was no answer, there is no certificate.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from kipuka_ca_local.authority import AuthorityError
from kipuka_ca_local.backend import build, check_own_validity
from kipuka_ca_local.keys import signature_hash

from kipuka.api import BackendUnavailable, CertificateChain, Issued, Order, Services, StartupError, Threads
from kipuka_ca_pkcs11.config import PKCS11CASettings, chain_of, signing_key
from kipuka_ca_pkcs11.keys import token_key
from kipuka_ca_pkcs11.tokens import SigningKey, TokenError

__all__ = ["PKCS11CA", "open_pkcs11_ca"]

RETRY_AFTER = timedelta(seconds=5)

WAITING = 64
"""How many calls for each session may wait before a caller is told to come back."""

T = TypeVar("T")


class PKCS11CA:
    """An authority whose key is on a token. An order leaves no trace here: until the host has recorded it nothing has happened."""

    def __init__(self, key: SigningKey, chain: CertificateChain, threads: Threads, services: Services, *, timeout: timedelta) -> None:  # fmt: skip
        self._key = key
        self._chain = chain
        self._threads = threads
        self._services = services
        self._timeout = timeout
        self._away = False

    async def ca_certificates(self) -> CertificateChain:
        """The chain as it was read at start."""
        return self._chain

    async def issue(self, order: Order, /) -> Issued:
        """Sign an order. Raises BackendUnavailable when there was no signature, BackendFault for what is never signed."""
        issuer = self._chain.issuer
        check_own_validity(issuer, self._services.clock())
        builder = build(order, issuer)
        try:
            certificate = await asked(self._threads, partial(self._sign, builder), patience=self._timeout)
        except TokenError as error:
            self.tell(error)
            detail = "the certification authority's HSM is not available"
            raise BackendUnavailable(detail, retry_after=RETRY_AFTER, reason="hsm_unavailable") from error
        self.tell(None)
        return Issued(certificate=certificate)

    async def health(self) -> str | None:
        """Whether the CA's certificate is valid now, and the token signs. One that was away is looked for again."""
        try:
            check_own_validity(self._chain.issuer, self._services.clock())
            await asked(self._threads, self._key.try_out, patience=self._timeout)
        except BackendUnavailable as error:
            return error.detail
        except TokenError as error:
            return f"{error.key}: {error}; {error.remedy}"
        return None

    def _sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        key = token_key(self._key)
        algorithm = signature_hash(key)
        if isinstance(key, rsa.RSAPrivateKey) and algorithm is not None:
            return builder.sign(key, algorithm, rsa_padding=self._key.scheme.padding(algorithm))
        return builder.sign(key, algorithm)

    def tell(self, error: TokenError | None) -> None:
        """Log the change, not every order."""
        if error is not None and not self._away:
            self._services.log.error("hsm_unavailable", key=error.key, problem=str(error), remedy=error.remedy)
        elif error is None and self._away:
            self._services.log.info("hsm_available_again")
        self._away = error is not None


@asynccontextmanager
async def open_pkcs11_ca(settings: PKCS11CASettings, services: Services) -> AsyncGenerator[PKCS11CA, None]:
    """The CA of the settings. Raises StartupError where its certificates make none, or the key is not theirs.

    A token that is away, or does not let us in, does not stop a start: `kipuka check` and the start of a server have looked before, and what has
    happened since passes without one. A worker that would not start over a PIN would be started again and again, until the token locks.
    """
    try:
        chain = chain_of(settings, services.clock())
    except AuthorityError as error:
        msg = f"{error.key}: {error}; {error.remedy}"
        raise StartupError(msg) from error
    key = signing_key(settings, chain)
    # A call that does not come back cannot be ended, and nobody waits for it when the server stops.
    opening = services.open_threads(settings.sessions, waiting=WAITING * settings.sessions, farewell=timedelta(0))
    async with opening as threads, _closing(key, threads, patience=settings.timeout):
        authority = PKCS11CA(key, chain, threads, services, timeout=settings.timeout)
        try:
            await asked(threads, key.open, patience=settings.timeout * 2)
        except TokenError as error:
            if error.lasting and error.key != "pin":
                msg = f"{error.key}: {error}; {error.remedy}"
                raise StartupError(msg) from error
            authority.tell(error)
        except BackendUnavailable as error:
            services.log.error("hsm_unavailable", problem=error.detail)
        yield authority


@asynccontextmanager
async def _closing(key: SigningKey, threads: Threads, *, patience: timedelta) -> AsyncGenerator[None, None]:
    """Close the sessions in the end, for as long as one waits for a signature; then whatever hangs is left behind."""
    try:
        yield
    finally:
        with suppress(BackendUnavailable):
            await asked(threads, key.close, patience=patience)


async def asked(threads: Threads, fn: Callable[[], T], *, patience: timedelta) -> T:
    """What the HSM answers. Raises BackendUnavailable when too many wait for it already, or it does not answer in time."""
    try:
        return await threads.run(fn, patience=patience)
    except BackendUnavailable as error:
        detail = "the HSM has too much to do"
        raise BackendUnavailable(detail, retry_after=timedelta(seconds=2), reason="hsm_busy") from error
    except TimeoutError as error:
        detail = "the HSM does not answer in time"
        raise BackendUnavailable(detail, retry_after=timedelta(seconds=10), reason="hsm_timeout") from error
