"""A private key on a token: found, proved to be the one that is meant, and signed with, over sessions that come back after they were lost.

In the room: from the names of a token and a key to signatures; what is wrong where that fails. Not in the room: the library's own
life and logins (`kipuka_ca_pkcs11.cryptoki`), what is signed (`kipuka_ca_pkcs11.keys`), and threads.

A session is used by one thread at a time (PKCS#11 2.40, 5.6): each signature takes one that is free, or opens one. On any error all are given up and the
token is looked for anew, first in the library as it is, then in the library started again: a token that was away, or a library that has lost its mind, is
there again without a restart of the server.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pkcs11
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pkcs11 import Attribute, KeyType, ObjectClass, TokenFlag
from pkcs11.exceptions import PKCS11Error, TokenNotPresent, TokenNotRecognised

from kipuka_ca_pkcs11.cryptoki import ModuleFault, Refusal, borrow, describe, give_back
from kipuka_ca_pkcs11.mechanisms import Scheme, ecdsa_signature, rsa_call

__all__ = ["KeyPlace", "PublicKey", "SigningKey", "TokenError", "find_key", "find_token"]

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 5.0
"""Seconds between two searches for a token that is away."""

SHOWN = 8
"""How many names an error lists."""


class TokenError(Exception):
    """There is no signature to be had. `key` is the configuration key to look at; the text never has the PIN.

    `lasting`: it does not pass by itself. A token that is away may come back, two keys of one name stay two.
    """

    def __init__(self, key: str, problem: str, remedy: str, *, lasting: bool = False) -> None:
        super().__init__(problem)
        self.key = key
        self.remedy = remedy
        self.lasting = lasting

    def again(self) -> TokenError:
        """The same for another caller."""
        return TokenError(self.key, str(self), self.remedy, lasting=self.lasting)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyPlace:
    """Where a key is: the library, the token by its label, its serial number or both, and the key by its label, its id or both."""

    module: Path
    token: str | None
    serial: str | None
    key_label: str | None
    key_id: bytes | None
    pin: str = field(repr=False)

    @property
    def key_name(self) -> str:
        """The key, as errors name it."""
        parts = [] if self.key_label is None else [f"with the label {self.key_label!r}"]
        parts += [] if self.key_id is None else [f"with the id {self.key_id.hex()}"]
        return "a private key " + " and ".join(parts)

    @property
    def token_name(self) -> str:
        """The token, as errors name it."""
        parts = [] if self.token is None else [f"with the label {self.token!r}"]
        parts += [] if self.serial is None else [f"with the serial number {self.serial!r}"]
        return "token " + " and ".join(parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyFacts:
    """What a token tells of a key, where it does."""

    extractable: bool | None
    sensitive: bool | None
    always_authenticate: bool | None


class _Connection:
    """The sessions of one authority, as long as nothing goes wrong with them."""

    def __init__(self, token: Any, generation: int, mechanisms: frozenset[Any]) -> None:
        self.token = token
        self.generation = generation
        self.mechanisms = mechanisms
        self._free: list[tuple[Any, Any]] = []
        self._given_up = False
        self._lock = threading.Lock()

    def take(self, place: KeyPlace) -> tuple[Any, Any]:
        with self._lock:
            if self._free:
                return self._free.pop()
        session = self.token.open()
        try:
            return session, find_key(session, place)
        except BaseException:
            self.end(session)
            raise

    def put(self, pair: tuple[Any, Any]) -> None:
        with self._lock:
            if not self._given_up:
                self._free.append(pair)
                return
        self.end(pair[0])

    def end(self, session: Any) -> None:
        """Close a session, if the token still knows it. Within `Module.work`, and in its own generation: a later session may have the same handle."""
        with suppress(PKCS11Error):
            session.close()

    def close(self) -> None:
        with self._lock:
            self._given_up = True
            free, self._free = self._free, []
        for session, _key in free:
            self.end(session)


class SigningKey:
    """The key of an authority. Its methods may be called from any thread, and block.

    `patience` (seconds) bounds what is waited for in this process; nothing can bound a call of the library.
    """

    def __init__(self, place: KeyPlace, public_key: PublicKey, *, scheme: Scheme, patience: float) -> None:
        self.place = place
        self.public_key = public_key
        self.scheme = scheme
        self._patience = patience
        self._module = borrow(place.module)
        self._connection: _Connection | None = None
        self._gate = threading.Lock()  # one looks for the token, the others wait for what comes of it
        self._closed = False
        self._trouble: TokenError | None = None
        self._pause = 0.0
        self._not_before = 0.0
        self.facts: KeyFacts | None = None

    def open(self, *, attended: bool = False) -> None:
        """Find the token, log in, find the key and try it. Raises TokenError.

        `attended`: a person waits for the answer, who may try a PIN after a wrong one.
        """
        self._ready(attended=attended)

    def close(self) -> None:
        """Close the sessions; the last user of the token in this process logs out, the last one of the library finalises it."""
        self._closed = True
        with self._held_gate():
            self._drop(self._connection)
        give_back(self._module, patience=self._patience)

    @property
    def trouble(self) -> TokenError | None:
        """Why the last search for the token was in vain; None while there is a connection."""
        return self._trouble

    def try_out(self) -> None:
        """Sign something of no use, which is the only sign of life that all tokens have. Raises TokenError."""
        self.sign(_useless(), hashes.SHA256())

    def sign(self, data: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
        """The signature over `data` in the form that certificates have it, verified. Raises TokenError when there is none."""
        for last in (False, True):
            connection = self._ready()
            try:
                return self._sign(connection, data, algorithm)
            except (PKCS11Error, ModuleFault, TokenError) as error:
                # Whatever it was, what is left of these sessions is not to be relied on.
                self._lose(connection)
                if last:
                    raise self._named(error) from error
        raise AssertionError

    # -- the connection --------------------------------------------------------------------------------------------

    def _ready(self, *, attended: bool = False) -> _Connection:
        connection = self._connection
        if connection is not None and connection.generation == self._module.generation:
            return connection
        if not self._gate.acquire(timeout=self._patience):
            raise TokenError("token", "the token is still being looked for", "see whether the HSM answers")
        try:
            connection = self._connection
            if self._closed:
                raise TokenError("token", "the authority is closed", "ask the one that came after it")
            if connection is not None and connection.generation == self._module.generation:
                return connection
            self._connection = None
            if self._trouble is not None and not attended and time.monotonic() < self._not_before:
                raise self._trouble.again()
            try:
                self._connection = connection = self._connect(attended=attended)
            except TokenError as error:
                self._trouble = error
                self._pause = min(max(self._pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
                self._not_before = time.monotonic() + self._pause
                raise
            self._trouble, self._pause = None, 0.0
            return connection
        finally:
            self._gate.release()

    def _connect(self, *, attended: bool) -> _Connection:
        seen = self._module.generation
        if self._module.is_up:
            try:
                return self._open(attended=attended)
            except (PKCS11Error, ModuleFault, TokenError) as error:
                if isinstance(error, TokenError) and error.key == "pin":
                    raise
                # Otherwise not even "no such key" is to be believed: a library whose token was away for a moment says so for ever.
        try:
            self._module.restart(seen, patience=self._patience)
            return self._open(attended=attended)
        except (PKCS11Error, ModuleFault) as error:
            raise self._named(error) from error

    def _open(self, *, attended: bool) -> _Connection:
        place = self.place
        with self._module.work(patience=self._patience) as library:
            generation = self._module.generation
            token = find_token(library, place)
            try:
                self._module.login(token, place.pin, attended=attended)
            except Refusal as error:
                raise TokenError("pin", str(error), error.remedy, lasting=True) from error
            connection = _Connection(token, generation, frozenset(token.slot.get_mechanisms()))
            try:
                pair = connection.take(place)
                connection.put(pair)
                self.facts = _facts(pair[1])
                self._judge(pair[1])
                self._prove(connection)
            except BaseException:
                connection.close()
                self._module.logout(token, generation)
                raise
            return connection

    def _judge(self, key: Any) -> None:
        expected = KeyType.RSA if isinstance(self.public_key, rsa.RSAPublicKey) else KeyType.EC
        name = self.place.key_name.removeprefix("a ")
        if key.key_type != expected:
            problem = f"the {name} is of the type {key.key_type.name}, the one of the certificate is {expected.name}"
            raise TokenError("key_label", problem, "name the key that belongs to the certificate", lasting=True)
        if self.facts is not None and self.facts.always_authenticate:
            problem = f"the {name} wants the PIN for each signature (CKA_ALWAYS_AUTHENTICATE)"
            raise TokenError("key_label", problem, "use a key that is free to sign after one login", lasting=True)

    def _prove(self, connection: _Connection) -> None:
        """Sign something of no use: only so the key is known to be that of the certificate."""
        try:
            self._sign(connection, _useless(), hashes.SHA256())
        except _WrongKey as error:
            problem = f"{self.place.key_name} on {self.place.token_name} is not the key of the certificate"
            raise TokenError("key_label", problem, "name the two that belong together", lasting=True) from error

    def _drop(self, connection: _Connection | None) -> None:
        """Close what is left of a connection, if its library is there to hear it. Under the gate."""
        if connection is None:
            return
        if self._connection is connection:
            self._connection = None
        with suppress(ModuleFault), self._module.work(patience=self._patience):
            if connection.generation == self._module.generation:
                connection.close()
                self._module.logout(connection.token, connection.generation)

    def _lose(self, connection: _Connection) -> None:
        with self._held_gate():
            if self._connection is connection:
                self._drop(connection)

    @contextlib.contextmanager
    def _held_gate(self) -> Generator[None]:
        """The gate, unless somebody holds it in a call of the library that does not come back."""
        held = self._gate.acquire(timeout=self._patience)
        try:
            yield
        finally:
            if held:
                self._gate.release()

    def _named(self, error: Exception) -> TokenError:
        if isinstance(error, TokenError):
            return error
        if isinstance(error, ModuleFault):
            return TokenError("module", str(error), "name the PKCS#11 library of the HSM, and see that it runs")
        problem = (
            f"{self.place.token_name} does not work: {describe(error) if isinstance(error, PKCS11Error) else error}"
        )
        return TokenError("token", problem, "see what the HSM says")

    # -- signing ---------------------------------------------------------------------------------------------------

    def _sign(self, connection: _Connection, data: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
        with self._module.work(patience=self._patience):
            if connection.generation != self._module.generation:
                raise ModuleFault(f"{self.place.module} was started again meanwhile")
            session, key = pair = connection.take(self.place)
            try:
                if isinstance(self.public_key, rsa.RSAPublicKey):
                    content, mechanism, parameters = rsa_call(data, algorithm, self.scheme, connection.mechanisms)
                    signature = bytes(key.sign(content, mechanism=mechanism, mechanism_param=parameters))
                else:
                    digest = hashes.Hash(algorithm)
                    digest.update(data)
                    signature = ecdsa_signature(bytes(key.sign(digest.finalize(), mechanism=pkcs11.Mechanism.ECDSA)))
            except BaseException:
                connection.end(session)  # it is in no known state
                raise
            connection.put(pair)
        self._verify(data, signature, algorithm)
        return signature

    def _verify(self, data: bytes, signature: bytes, algorithm: hashes.HashAlgorithm) -> None:
        """A bad signature, from a wrong key or a fault that an attacker made, must not leave: it could tell of the key."""
        try:
            if isinstance(self.public_key, rsa.RSAPublicKey):
                self.public_key.verify(signature, data, self.scheme.padding(algorithm), algorithm)
            else:
                self.public_key.verify(signature, data, ec.ECDSA(algorithm))
        except InvalidSignature:
            raise _WrongKey("key_label", "the token gave a signature that is wrong", "see what the HSM says") from None


def _useless() -> bytes:
    """Nothing that is signed anywhere else, in particular no certificate."""
    return b"kipuka looks whether this is the key: " + secrets.token_bytes(16)


class _WrongKey(TokenError):
    """What the token signed does not verify with the certificate's key."""


def find_token(library: Any, place: KeyPlace) -> Any:
    """The one token that is meant. Raises TokenError or PKCS11Error."""
    there = list(_tokens(library))
    found = [
        token
        for token in there
        if (place.token is None or token.label == place.token)
        and (place.serial is None or token.serial.decode("utf-8", "replace") == place.serial)
    ]
    key = "token" if place.token is not None else "serial"
    if not found:
        names = ", ".join(repr(token.label) for token in there[:SHOWN]) or "no token at all"
        raise TokenError(
            key, f"there is no {place.token_name}; there is {names}", "name one that is there, or plug it in"
        )
    if len(found) > 1:
        serials = ", ".join(sorted(repr(token.serial.decode("utf-8", "replace")) for token in found)[:SHOWN])
        problem = f"there are {len(found)} tokens like that, with the serial numbers {serials}"
        raise TokenError(key, problem, "write the serial of the one that is meant", lasting=True)
    return found[0]


def _tokens(library: Any) -> Iterator[Any]:
    for slot in library.get_slots(token_present=True):
        try:
            token = slot.get_token()
        except (TokenNotPresent, TokenNotRecognised):
            continue
        if token.flags & TokenFlag.TOKEN_INITIALIZED:
            yield token


def find_key(session: Any, place: KeyPlace) -> Any:
    """The one private key that is meant. Raises TokenError or PKCS11Error."""
    template: dict[Any, Any] = {Attribute.CLASS: ObjectClass.PRIVATE_KEY}
    if place.key_label is not None:
        template[Attribute.LABEL] = place.key_label
    if place.key_id is not None:
        template[Attribute.ID] = place.key_id
    found = list(session.get_objects(template))
    key = "key_label" if place.key_label is not None else "key_id"
    if not found:
        others = [one.label for one in session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY})]
        names = ", ".join(map(repr, others[:SHOWN])) or "none at all"
        problem = f"there is not {place.key_name} on {place.token_name}; the labels of those it has: {names}"
        raise TokenError(key, problem, "name one that is there, or make one: `kipuka ca create`", lasting=True)
    if len(found) > 1:
        ids = ", ".join(sorted(bytes(one.id).hex() or "none" for one in found)[:SHOWN])
        problem = f"there are {len(found)} private keys like that on {place.token_name}, with the ids {ids}"
        remedy = "name one by its own id as key_id, or give each a label of its own"
        raise TokenError(key, problem, remedy, lasting=True)
    return found[0]


def _facts(key: Any) -> KeyFacts:
    def ask(attribute: Any) -> bool | None:
        try:
            return bool(key[attribute])
        except PKCS11Error:
            return None  # not every token tells

    return KeyFacts(
        extractable=ask(Attribute.EXTRACTABLE),
        sensitive=ask(Attribute.SENSITIVE),
        always_authenticate=ask(Attribute.ALWAYS_AUTHENTICATE),
    )
