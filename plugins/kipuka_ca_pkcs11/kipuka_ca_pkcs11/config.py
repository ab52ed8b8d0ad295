"""The keys of a `[[ca]]` item with `backend = "pkcs11"`.

In the room: the keys, and what `kipuka check` says of them. Not in the room: the certificates' checks (`kipuka_ca_local.authority`), and tokens
(`kipuka_ca_pkcs11.tokens`).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, Self

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from kipuka_ca_local.authority import AuthorityError, load_chain
from kipuka_ca_local.config import check_issuer
from pydantic import AfterValidator, Field, model_validator

from kipuka.api import CertificateChain, ConfigPath, Finding, Seconds, Secret, Section
from kipuka_ca_pkcs11.mechanisms import Scheme
from kipuka_ca_pkcs11.tokens import KeyPlace, PublicKey, SigningKey, TokenError

__all__ = ["PKCS11CASettings", "chain_of", "check_settings", "public_key_of", "signing_key"]

_CURVES = frozenset({"secp256r1", "secp384r1", "secp521r1"})
_RSA_BITS = range(2048, 8193)


def _hexadecimal(value: str) -> str:
    try:
        identifier = bytes.fromhex(value)
    except ValueError:
        identifier = b""
    if not identifier:
        msg = "the id of a key is written as octets in hexadecimal, for instance 0a1b"
        raise ValueError(msg)
    return identifier.hex()


class PKCS11CASettings(Section):
    """A certification authority whose key is on a token of an HSM."""

    cert: ConfigPath
    """PEM file of the issuing certificate. Those above it may follow in the same file."""

    chain: ConfigPath | None = None
    """PEM file of the certificates above the issuing one, in order, the root last. Not needed where `cert` is a root or has them."""

    module: ConfigPath
    """The PKCS#11 library of the HSM, for instance /usr/lib/softhsm/libsofthsm2.so."""

    token: Annotated[str, Field(min_length=1, max_length=32)] | None = None
    """The label of the token."""

    serial: Annotated[str, Field(min_length=1, max_length=16)] | None = None
    """The serial number of the token: needed where two have one label, enough where it is alone."""

    key_label: Annotated[str, Field(min_length=1)] | None = None
    """The label (CKA_LABEL) of the private key."""

    key_id: Annotated[str, AfterValidator(_hexadecimal)] | None = None
    """The id (CKA_ID) of the private key, in hexadecimal: needed where two have one label, enough where it is alone."""

    pin: Secret
    """The PIN of the token's user, best as `file:PATH` or `env:NAME`. A wrong one is tried once."""

    rsa_padding: Literal["pkcs1v15", "pss"] = "pkcs1v15"
    """How an RSA key signs (RFC 8017)."""

    sessions: Annotated[int, Field(ge=1, le=64)] = 4
    """How many signatures each worker may have made at a time: its sessions at the token, and threads that wait for it."""

    timeout: Annotated[Seconds, Field(gt=timedelta(0), le=timedelta(seconds=120))] = timedelta(seconds=10)
    """Seconds after which a signature that has not come is given up, and the client is told to come back."""

    @model_validator(mode="after")
    def _names_are_there(self) -> Self:
        if self.token is None and self.serial is None:
            msg = "neither token nor serial is written: name the token by its label or its serial number"
            raise ValueError(msg)
        if self.key_label is None and self.key_id is None:
            msg = "neither key_label nor key_id is written: name the private key by its label or its id"
            raise ValueError(msg)
        if not self.pin.get_secret_value():
            msg = "the pin is empty"
            raise ValueError(msg)
        return self


def chain_of(settings: PKCS11CASettings, now: datetime) -> CertificateChain:
    """The certificates that the settings name. Raises AuthorityError."""
    chain = load_chain(cert=settings.cert, chain=settings.chain, now=now)
    public_key_of(chain)
    return chain


def public_key_of(chain: CertificateChain) -> PublicKey:
    """The issuer's key, of a type that can be used through PKCS#11 here. Raises AuthorityError."""
    key = chain.issuer.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size in _RSA_BITS:
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return key
    problem = "the issuing certificate's key is neither RSA of 2048 to 8192 bits nor on P-256, P-384 or P-521"
    raise AuthorityError("cert", problem, "use an issuing certificate with another key")


def signing_key(settings: PKCS11CASettings, chain: CertificateChain) -> SigningKey:
    """The key that the settings name; not looked for yet. To be closed."""
    place = KeyPlace(
        module=settings.module,
        token=settings.token,
        serial=settings.serial,
        key_label=settings.key_label,
        key_id=None if settings.key_id is None else bytes.fromhex(settings.key_id),
        pin=settings.pin.get_secret_value(),
    )
    scheme = Scheme(settings.rsa_padding)
    return SigningKey(place, public_key_of(chain), scheme=scheme, patience=settings.timeout.total_seconds())


def check_settings(settings: PKCS11CASettings) -> Iterator[Finding]:
    """An error for what cannot be opened, warnings for what is weak. The PIN is tried once."""
    now = datetime.now(UTC)
    try:
        chain = chain_of(settings, now)
    except AuthorityError as error:
        yield Finding(severity="error", key=error.key, problem=str(error), remedy=error.remedy)
        if not settings.module.exists():
            yield _no_module(settings)
        return
    yield from check_issuer(chain.issuer, now)
    if not settings.module.exists():
        yield _no_module(settings)
        return
    key = signing_key(settings, chain)
    try:
        key.open(attended=True)
    except TokenError as error:
        yield Finding(severity="error", key=error.key, problem=str(error), remedy=error.remedy)
        return
    finally:
        key.close()
    if key.facts is None:
        return
    if key.facts.extractable:
        problem = "the private key may leave the token (CKA_EXTRACTABLE): whoever has the PIN can take it away"
        yield Finding(severity="warning", key=_key_of(settings), problem=problem, remedy=_NEW_KEY)
    if key.facts.sensitive is False:
        problem = "the token shows the private key in the clear (CKA_SENSITIVE is false) to whoever has the PIN"
        yield Finding(severity="warning", key=_key_of(settings), problem=problem, remedy=_NEW_KEY)


_NEW_KEY = "use a key that was made on the token as sensitive and not extractable, as `kipuka ca create` makes them"


def _key_of(settings: PKCS11CASettings) -> str:
    return "key_label" if settings.key_label is not None else "key_id"


def _no_module(settings: PKCS11CASettings) -> Finding:
    remedy = "write the path of the HSM's PKCS#11 library, or install it"
    return Finding(severity="error", key="module", problem=f"there is no file {settings.module}", remedy=remedy)
