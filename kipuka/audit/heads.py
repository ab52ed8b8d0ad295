"""What a node's key says of its chain: how far it went, and what was pruned from its beginning (RULES I1). Pure but for key files.

In the room: the statements, signing them, checking them, and the key's file. Not in the room: when heads are signed
(`kipuka.audit.signer`), pruning (`kipuka.audit.prune`), and holding statements against a chain (`kipuka.audit.verify`).

A statement is canonical JSON (RFC 8785) with its purpose in it, signed with Ed25519 (RFC 8032). It names the node, so that none can
be moved to another's chain. Keys are named by the SHA-256 of their SubjectPublicKeyInfo.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from kipuka.api.errors import StartupError
from kipuka.api.events import AuditHeadSigned, AuditPruned
from kipuka.audit.chain import canonical
from kipuka.store.events import ChainHead, Stub

__all__ = [
    "NodeKey",
    "SignedHead",
    "TrustedKeys",
    "check_head",
    "check_stub",
    "event_of_stub",
    "head_of_event",
    "key_id",
    "load_public_key",
    "public_pem",
    "read_head",
    "sign_head",
    "sign_stub",
    "write_key",
]

_HEAD = "kipuka audit head 1"
_STUB = "kipuka audit stub 1"


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedHead:
    """A node's chain had this hash at this number when the node's key signed."""

    node: str
    sequence: int
    hash: str
    time: str
    key: str  # the SHA-256 of its SubjectPublicKeyInfo, hexadecimal
    signature: str  # base64

    @property
    def head(self) -> ChainHead:
        """The place in the chain."""
        return ChainHead(node=self.node, sequence=self.sequence, hash=self.hash)

    def event(self) -> AuditHeadSigned:
        """As it is recorded in the chain it speaks of."""
        return AuditHeadSigned(
            covered_sequence=self.sequence,
            covered_hash=self.hash,
            signed_at=self.time,
            key=self.key,
            signature=self.signature,
        )


class NodeKey:
    """A node's private key, in memory."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key()
        self.id = key_id(self.public)

    @classmethod
    def load(cls, file: Path) -> NodeKey:
        """The key of a PEM file (PKCS #8). Raises `StartupError` with one sentence."""
        try:
            key = load_pem_private_key(file.read_bytes(), None)
        except OSError as error:
            raise StartupError(f"{file}: cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise StartupError(f"{file}: it is no private key that can be read without a password") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise StartupError(f"{file}: it is not an Ed25519 key; make one with `kipuka audit key create`")
        return cls(key)

    def sign(self, statement: bytes) -> str:
        """The signature, in base64."""
        return base64.b64encode(self._private.sign(statement)).decode("ascii")


class TrustedKeys:
    """The public keys whose statements count. Empty: nobody said whose, so none can be checked."""

    def __init__(self, keys: Iterable[Ed25519PublicKey] = ()) -> None:
        self._keys = {key_id(key): key for key in keys}

    def __bool__(self) -> bool:
        return bool(self._keys)

    def problem(self, key: str, signature: str, statement: bytes) -> str | None:
        """What is wrong with a signature; None when one of these keys made it over this statement."""
        public = self._keys.get(key)
        if public is None:
            return f"it is signed by a key that is not trusted here ({key[:16]}...)"
        try:
            public.verify(base64.b64decode(signature, validate=True), statement)
        except (InvalidSignature, binascii.Error, ValueError):
            return "its signature is wrong"
        return None


def sign_head(key: NodeKey, head: ChainHead, *, time: str) -> SignedHead:
    """The key's statement about that head."""
    statement = _head_statement(head.node, head.sequence, head.hash, time, key.id)
    signature = key.sign(statement)
    return SignedHead(
        node=head.node, sequence=head.sequence, hash=head.hash, time=time, key=key.id, signature=signature
    )


def check_head(head: SignedHead, trusted: TrustedKeys) -> str | None:
    """What is wrong with a signed head; None when nothing is."""
    statement = _head_statement(head.node, head.sequence, head.hash, head.time, head.key)
    return trusted.problem(head.key, head.signature, statement)


def sign_stub(key: NodeKey, head: ChainHead, *, count: int, time: str) -> Stub:
    """The key's statement that the chain's beginning up to that place, `count` events in all, was removed on purpose."""
    unsigned = Stub(
        node=head.node, sequence=head.sequence, hash=head.hash, count=count, pruned_at=time, key=key.id, signature=""
    )
    return Stub(
        node=head.node,
        sequence=head.sequence,
        hash=head.hash,
        count=count,
        pruned_at=time,
        key=key.id,
        signature=key.sign(_stub_statement(unsigned)),
    )


def check_stub(stub: Stub, trusted: TrustedKeys) -> str | None:
    """What is wrong with a stub's signature; None when nothing is."""
    return trusted.problem(stub.key, stub.signature, _stub_statement(stub))


def event_of_stub(stub: Stub) -> AuditPruned:
    """As it is recorded in the chain whose beginning was removed."""
    return AuditPruned(
        pruned_sequence=stub.sequence,
        pruned_hash=stub.hash,
        count=stub.count,
        pruned_at=stub.pruned_at,
        key=stub.key,
        signature=stub.signature,
    )


def head_of_event(content: Mapping[str, Any]) -> SignedHead | None:
    """The signed head that a recorded event holds; None where its data are not those of one."""
    data = content.get("data")
    if not isinstance(data, dict):
        return None
    members = cast("dict[str, Any]", data)
    names = {
        "sequence": "covered_sequence",
        "hash": "covered_hash",
        "time": "signed_at",
        "key": "key",
        "signature": "signature",
    }
    return _head({"node": content.get("node"), **{name: members.get(there) for name, there in names.items()}})


def read_head(content: Mapping[str, Any]) -> SignedHead | None:
    """A signed head from parsed JSON: a recorded event, or what `kipuka audit head --json` prints. None for anything else."""
    if content.get("event") == AuditHeadSigned.name:
        return head_of_event(content)
    return _head(content) if set(content) == _MEMBERS else None


_TEXTS = ("node", "hash", "time", "key", "signature")
_MEMBERS = {*_TEXTS, "sequence"}


def _head(members: Mapping[str, Any]) -> SignedHead | None:
    if not all(isinstance(members[name], str) for name in _TEXTS) or not isinstance(members["sequence"], int):
        return None
    return SignedHead(**members)


def _head_statement(node: str, sequence: int, chain_hash: str, time: str, key: str) -> bytes:
    return _statement(_HEAD, node=node, sequence=sequence, hash=chain_hash, time=time, key=key)


def _stub_statement(stub: Stub) -> bytes:
    return _statement(
        _STUB,
        node=stub.node,
        sequence=stub.sequence,
        hash=stub.hash,
        count=stub.count,
        time=stub.pruned_at,
        key=stub.key,
    )


def _statement(purpose: str, **members: str | int) -> bytes:
    """Numbers are text in it, so that whatever somebody wrote into a row or a file has a form, if a worthless one."""
    texts = {name: str(value).encode("utf-8", "replace").decode("utf-8") for name, value in members.items()}
    return canonical({"statement": purpose, **texts}).encode("utf-8")


# --- files ---


def key_id(public: Ed25519PublicKey) -> str:
    """How a key is named in statements."""
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def public_pem(public: Ed25519PublicKey) -> bytes:
    """The public key as an auditor is given it."""
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def load_public_key(file: Path) -> Ed25519PublicKey:
    """The public key of a PEM file; also of one with a private key. Raises `StartupError` with one sentence."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise StartupError(f"{file}: cannot be read: {error.strerror}") from error
    if b"PRIVATE KEY" in content:
        return NodeKey.load(file).public
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise StartupError(f"{file}: there is no PEM public key in it") from error
    if not isinstance(key, Ed25519PublicKey):
        raise StartupError(f"{file}: it is not an Ed25519 key")
    return key


def write_key(file: Path) -> NodeKey:
    """Make a key in a new file that its owner alone can read. Raises FileExistsError rather than overwrite."""
    private = Ed25519PrivateKey.generate()
    content = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(stream.fileno(), 0o600)
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return NodeKey(private)
