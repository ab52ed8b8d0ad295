"""A client that does what a server asks of requests (RFC 7030, 4.5; RFC 9908), and no more than that.

In the room: from the DER of `csrattrs` to a certification request. Not in the room: fetching it (`kipuka.testing.client`), and any
knowledge of the server's configuration: what the answer leaves open comes from the caller.

    asked = base64.b64decode(client.csrattrs().body)
    csr = obedient_csr(asked, values={NameOID.COMMON_NAME: "device-1"})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.x509.oid import ExtensionOID, SignatureAlgorithmOID

from kipuka.est.csrattrs import (
    CHALLENGE_PASSWORD,
    EC_PUBLIC_KEY,
    IDENTITY_LINKING,
    RSA_ENCRYPTION,
    CsrAttributes,
    ExtensionTemplate,
    KeyTemplate,
    NamePart,
    decode,
)
from kipuka.testing import der
from kipuka.testing.pki import Attribute, KeyKind, PrivateKey, Request, SignatureKind, make_csr, make_key

__all__ = ["obedient_csr", "wanted_key", "wanted_signature"]

_CURVES: Mapping[str, KeyKind] = {"1.2.840.10045.3.1.7": "p256", "1.3.132.0.34": "p384", "1.3.132.0.35": "p521"}
_RSA_SIZES: Mapping[int, KeyKind] = {2048: "rsa2048", 3072: "rsa3072", 4096: "rsa4096"}
_PURE: Mapping[x509.ObjectIdentifier, KeyKind] = {
    SignatureAlgorithmOID.ED25519: "ed25519",
    SignatureAlgorithmOID.ED448: "ed448",
}
_SIGNATURES: Mapping[x509.ObjectIdentifier, SignatureKind] = {
    SignatureAlgorithmOID.ECDSA_WITH_SHA256: "sha256",
    SignatureAlgorithmOID.ECDSA_WITH_SHA384: "sha384",
    SignatureAlgorithmOID.ECDSA_WITH_SHA512: "sha512",
    SignatureAlgorithmOID.ECDSA_WITH_SHA3_256: "sha3-256",
    SignatureAlgorithmOID.ECDSA_WITH_SHA3_384: "sha3-384",
    SignatureAlgorithmOID.ECDSA_WITH_SHA3_512: "sha3-512",
    SignatureAlgorithmOID.RSA_WITH_SHA256: "sha256",
    SignatureAlgorithmOID.RSA_WITH_SHA384: "sha384",
    SignatureAlgorithmOID.RSA_WITH_SHA512: "sha512",
    SignatureAlgorithmOID.RSA_WITH_SHA3_256: "sha3-256",
    SignatureAlgorithmOID.RSA_WITH_SHA3_384: "sha3-384",
    SignatureAlgorithmOID.RSA_WITH_SHA3_512: "sha3-512",
}
_ANY_ADDRESS = b"\x87\x00"  # an iPAddress to fill in, which stands last (RFC 9908, section 3.4)
_SAN = ExtensionOID.SUBJECT_ALTERNATIVE_NAME
_STRINGS = {b"\x0c": "utf-8", b"\x13": "ascii", b"\x16": "ascii"}  # UTF8String, PrintableString, IA5String


def obedient_csr(
    asked: bytes | None,
    *,
    values: Mapping[x509.ObjectIdentifier, str],
    names: Sequence[x509.GeneralName] = (),
    channel_binding: str | None = None,
    key: PrivateKey | None = None,
    templates: bool = True,
) -> Request:
    """A request that does what `asked` (the DER of CsrAttrs, None for a 204) says.

    `values` are what the client would have in its subject, by type, `names` its alternative names, `channel_binding` the base64 of its
    connection's. They are used where the server leaves them to the client. Where it says nothing about the subject the request has the CN and nothing else.
    A client without `templates` is one from before RFC 9908. Raises ValueError for an answer that cannot be read, and KeyError where
    the client has not what it is asked for.
    """
    wanted = decode(asked) if asked is not None else CsrAttributes()
    template = wanted.template if templates else None
    attributes: list[Attribute] = []
    if template is not None:
        parts = None if template.subject is None else [part for rdn in template.subject for part in rdn]
        extensions = template.extensions
    else:
        parts = [NamePart(oid) for oid in wanted.identifiers if oid in values]
        extensions = [*wanted.extensions, *(ExtensionTemplate(type=oid) for oid in wanted.identifiers if oid == _SAN)]
        # RFC 7894, section 4: a client that knows the second prefers it
        for oid in (IDENTITY_LINKING, CHALLENGE_PASSWORD):
            if oid in wanted.identifiers:
                if channel_binding is None:
                    raise KeyError("the server wants a channel binding")
                attributes.append(Attribute(oid=oid.dotted_string, values=(der.printable(channel_binding),)))
                break
    if asked is None:
        parts = None
    subject = (
        None if parts is None else x509.Name([x509.NameAttribute(part.type, _value(part, values)) for part in parts])
    )
    return make_csr(
        subject,
        common_name=values.get(x509.NameOID.COMMON_NAME),
        key=key or make_key(wanted_key(wanted, templates=templates) or "p256"),
        extensions=[_extension(extension, names) for extension in extensions],
        attributes=attributes,
        signature=wanted_signature(wanted, templates=templates) or "sha256",
    )


def wanted_key(wanted: CsrAttributes, *, templates: bool = True) -> KeyKind | None:
    """The kind of key that the server wants, None where any will do. Raises KeyError for one that is not known here."""
    template = wanted.template if templates else None
    if template is not None:
        return None if template.key is None else _kind(template.key)
    for item in wanted.attributes:
        if item.type == RSA_ENCRYPTION:  # without a value any size will do (RFC 9908, section 3.2)
            return _RSA_SIZES[asn1.decode_der(int, item.values[0])] if item.values else "rsa2048"
        if item.type == EC_PUBLIC_KEY or item.type in _PURE:
            return _kind(KeyTemplate(algorithm=item.type, parameters=item.values[0] if item.values else None))
    return None


def _kind(key: KeyTemplate) -> KeyKind:
    if key.algorithm == RSA_ENCRYPTION:
        return _RSA_SIZES[key.rsa_bits or 2048]
    if key.algorithm == EC_PUBLIC_KEY and key.curve is None:
        return "p256"
    return _PURE[key.algorithm] if key.curve is None else _CURVES[key.curve.dotted_string]


def wanted_signature(wanted: CsrAttributes, *, templates: bool = True) -> SignatureKind | None:
    """The hash that the server wants the request to be signed with, None where any will do."""
    if templates and wanted.template is not None:
        return None
    return next((_SIGNATURES[oid] for oid in wanted.identifiers if oid in _SIGNATURES), None)


def _value(part: NamePart, values: Mapping[x509.ObjectIdentifier, str]) -> str:
    if part.value is None:
        return values[part.type]
    element = asn1.decode_der(asn1.TLV, part.value)
    return bytes(element.data).decode(_STRINGS[element.tag_bytes])


def _extension(wanted: ExtensionTemplate, names: Sequence[x509.GeneralName]) -> x509.Extension[x509.ExtensionType]:
    if wanted.value is not None and wanted.is_whole:
        value = x509.UnrecognizedExtension(wanted.type, wanted.value)
        return x509.Extension(wanted.type, wanted.critical, value)
    if wanted.type != _SAN:
        raise KeyError(wanted.type)
    own = [name for name in names if wanted.value is None or isinstance(name, x509.IPAddress)]
    if not own:
        raise KeyError(wanted.type)
    value = x509.SubjectAlternativeName(own).public_bytes()
    if wanted.value is not None:
        value = der.sequence(_content(wanted.value).removesuffix(_ANY_ADDRESS), _content(value))
    return x509.Extension(wanted.type, wanted.critical, x509.UnrecognizedExtension(wanted.type, value))


def _content(element: bytes) -> bytes:
    return bytes(asn1.decode_der(asn1.TLV, element).data)
