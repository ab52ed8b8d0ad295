"""Private keys that are made here for a client (RFC 7030, 4.4; RULES J1).

In the room: which kind is made, whom it is encrypted to, and what a retry is granted. Not in the room: making one (`kipuka.x509.generate`), its
form on the wire (`kipuka.est.keygen`, `kipuka.est.enveloped`). No key is kept once the answer has left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kipuka.api import (
    BackendFault,
    BadCSR,
    KeyRefused,
)
from kipuka.enrolment.attempt import Attempt, Envelope, MadeKey, good_certificate
from kipuka.est.enveloped import KeyEncryption, choose, unsuited
from kipuka.est.keygen import KeyPart, encrypt_to, encrypted_key, plain_key
from kipuka.store.certificates import RecordedCertificate
from kipuka.x509.generate import GeneratedKey, KeyKind, generate, kind_for, request_for
from kipuka.x509.issued import ordered_extensions
from kipuka.x509.keys import describe_key
from kipuka.x509.profiles import Grant, Profile

__all__ = ["Keys", "MakeSlowKey", "kind_of", "same_again"]

MakeSlowKey = Callable[[KeyKind], Awaitable[GeneratedKey]]
"""Makes a key that takes longer than the event loop may wait. Raises `BackendUnavailable` where too many wait for one."""


class Keys:
    """Makes private keys for clients that ask for one, and decides how they travel."""

    def __init__(self, make_slow: MakeSlowKey | None, encryption: KeyEncryption) -> None:
        self._make_slow = make_slow
        self.encryption = encryption

    def envelope(self, attempt: Attempt) -> Envelope | None:
        """RFC 7030, 4.4.1: whom the private key is to be encrypted to, as the request says (RULES J1)."""
        wish, profile = encrypt_to(attempt.csr), attempt.request.service.profile
        if wish is None:
            if profile.require_encrypted_key:
                detail = "private keys are only handed out encrypted: the request must name a key of yours with AsymmetricDecryptKeyIdentifier"
                raise KeyRefused(detail, reason="encryption_required", rule="require_encrypted_key")
            return None
        if wish.symmetric:
            detail = "no symmetric keys are kept here: name a key of yours with AsymmetricDecryptKeyIdentifier, not DecryptKeyIdentifier"
            raise BadCSR(detail, reason="symmetric_decrypt_key")
        recipient = self.encryption.find(wish.identifier, good_certificate(attempt.certificate))
        if recipient is None:
            detail = "the key to encrypt to is not known here: name that of the client certificate by its subject key identifier, or one that an administrator has listed"
            raise BadCSR(detail, reason="unknown_decrypt_key")
        problem = unsuited(recipient)
        if problem is not None:
            raise BadCSR(
                f"nothing can be encrypted to the key that the request names: {problem}", reason="unsuited_decrypt_key"
            )
        try:
            chosen = choose(recipient, wish.capabilities)
        except ValueError as error:
            raise BadCSR(str(error), reason="csr_capabilities") from error
        if self.encryption.signer is None:
            detail = "the server has no key to sign an encrypted private key with"
            raise BackendFault(detail, reason="no_key_signer")
        return Envelope(signer=self.encryption.signer, recipient=recipient, chosen=chosen)

    async def make(self, attempt: Attempt, grant: Grant) -> MadeKey:
        """RFC 7030, 4.4: a key pair, of which nothing is kept once the answer has left."""
        kind = kind_of(attempt)
        if kind.is_slow:
            if self._make_slow is None:
                msg = "a slow key without a thread to make it in"
                raise AssertionError(msg)
            key = await self._make_slow(kind)
        else:
            key = generate(kind)
        return MadeKey(
            title=kind.title,
            public_key=key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            csr=request_for(key, subject=grant.subject, alternative_names=_alternative_names(grant)),
            part=_part_of(key, attempt.envelope),
        )


def kind_of(attempt: Attempt) -> KeyKind:
    """Which kind of key is made. Raises `KeyRefused` where the profile takes none that could be."""
    answered = attempt.answered
    asked = attempt.csr.key_description if answered is None else describe_key(answered.load().public_key())
    profile = attempt.request.service.profile
    kind = kind_for(asked, profile.key_policy, profile.generated_key)
    if kind is None:
        raise KeyRefused(
            f"the profile {profile.name} accepts no key of a kind that is made here",
            reason="no_kind_of_key",
            rule="key_types",
        )
    return kind


def _part_of(key: GeneratedKey, envelope: Envelope | None) -> KeyPart:
    if envelope is None:
        return plain_key(key)
    return encrypted_key(key, signer=envelope.signer, recipient=envelope.recipient, chosen=envelope.chosen)


def _alternative_names(grant: Grant) -> x509.Extension[x509.ExtensionType] | None:
    found = (item for item in grant.extensions if item.oid == x509.SubjectAlternativeName.oid)
    return next(found, None)


def same_again(answered: RecordedCertificate, profile: Profile) -> Grant:
    """What was granted when this certificate was ordered; where CRL and the like are to be found, as it is today."""
    certificate = answered.load()
    extensions = ordered_extensions(certificate)
    present = {extension.oid for extension in extensions}
    pointers = [pointer for pointer in profile.issuance.pointers() if pointer.oid not in present]
    return Grant(
        subject=certificate.subject,
        extensions=(*extensions, *(x509.Extension(pointer.oid, critical=False, value=pointer) for pointer in pointers)),
        names=answered.names,
    )
