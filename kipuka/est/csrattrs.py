"""What a server asks of certification requests: the body of `csrattrs` (RFC 7030, 4.5.2, as RFC 8951, section 4 has it; RFC 9908).

In the room: CsrAttrs as values, from and to DER: object identifiers, attributes, and the template of RFC 9908, section 3.4. Not in the
room: what a profile asks for (`kipuka.csr_attributes`), base64 (`kipuka.est.wire`).

A server writes these and a client reads them. `decode` takes DER only: what it accepts, `encode` gives back octet for octet.
Values of attributes stay the DER that they are, since a reader has to pass over what it does not know (RFC 8951, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.x509 import ObjectIdentifier

__all__ = [
    "ANY_ADDRESS",
    "CERTIFICATION_REQUEST_INFO_TEMPLATE",
    "CHALLENGE_PASSWORD",
    "EC_PUBLIC_KEY",
    "EXTENSION_REQUEST",
    "EXTENSION_REQ_TEMPLATE",
    "IDENTITY_LINKING",
    "MAX_CSRATTRS",
    "RSA_ENCRYPTION",
    "SUBJECT_ALTERNATIVE_NAME",
    "CsrAttribute",
    "CsrAttributes",
    "ExtensionTemplate",
    "KeyTemplate",
    "NamePart",
    "Template",
    "alternative_names",
    "decode",
    "encode",
    "extension_request",
]

MAX_CSRATTRS = 16 * 1024
"""The longest CsrAttrs in bytes that is read. The largest in sight, a template with an RSA-8192 placeholder, has less than 2 KiB."""

_MAX_ITEMS = 128

CHALLENGE_PASSWORD = ObjectIdentifier("1.2.840.113549.1.9.7")
"""The linking of identity and proof of possession is required (RFC 7030, 3.5; RFC 8951, section 4)."""

IDENTITY_LINKING = ObjectIdentifier("1.2.840.113549.1.9.16.2.58")
"""estIdentityLinking: the same, in an attribute of its own (RFC 7894, section 3.3)."""

EXTENSION_REQUEST = ObjectIdentifier("1.2.840.113549.1.9.14")
"""id-ExtensionReq, whose one value is Extensions (RFC 2985, 5.4.2; RFC 9908, section 3.2)."""

CERTIFICATION_REQUEST_INFO_TEMPLATE = ObjectIdentifier("1.2.840.113549.1.9.16.2.61")
"""id-aa-certificationRequestInfoTemplate (RFC 9908, section 3.4 and appendix A)."""

EXTENSION_REQ_TEMPLATE = ObjectIdentifier("1.2.840.113549.1.9.16.2.62")
"""id-aa-extensionReqTemplate: extensions of which some have no value, in a template only (RFC 9908, section 3.4 and appendix A)."""

RSA_ENCRYPTION = ObjectIdentifier("1.2.840.113549.1.1.1")  # RFC 3279, section 2.3.1
EC_PUBLIC_KEY = ObjectIdentifier("1.2.840.10045.2.1")  # RFC 5480, section 2.1.1

SUBJECT_ALTERNATIVE_NAME = ObjectIdentifier("2.5.29.17")  # RFC 5280, section 4.2.1.6

_NULL = b"\x05\x00"
_GAPS = frozenset({b"\x87\x00", b"\xa4\x02\x30\x00"})  # an iPAddress without octets, a directoryName without RDNs
_EXPONENT = 65537

# What `cryptography` raises for octets that are not of the structure.
_PARSE_ERRORS = (ValueError, TypeError, OverflowError)


# --- RFC 8951, section 4, and RFC 9908, appendix A


@asn1.sequence
class _Attribute:
    type: ObjectIdentifier
    values: asn1.SetOf[asn1.TLV]


@asn1.sequence
class _CsrAttrs:  # with a SEQUENCE around it, since the outermost element of a structure is declared field by field
    items: list[ObjectIdentifier | _Attribute]


@asn1.sequence
class _Around:
    element: asn1.TLV


@asn1.sequence
class _KeyTemplate:  # SubjectPublicKeyInfoTemplate
    algorithm: list[asn1.TLV]
    public_key: asn1.BitString | None


@asn1.sequence
class _Template:  # CertificationRequestInfoTemplate
    version: int
    subject: list[asn1.SetOf[list[asn1.TLV]]] | None  # of SingleAttributeTemplate: a type, and a value or none
    key: Annotated[_KeyTemplate | None, asn1.Implicit(0)]
    attributes: Annotated[asn1.SetOf[_Attribute], asn1.Implicit(1)]


@asn1.sequence
class _Extension:  # ExtensionTemplate; with a value it is the Extension of RFC 5280, 4.1
    type: ObjectIdentifier
    critical: Annotated[bool, asn1.Default(value=False)]
    value: bytes | None


@asn1.sequence
class _Extensions:  # in a SEQUENCE, as above
    items: list[_Extension]


@asn1.sequence
class _RSAPublicKey:  # RFC 8017, A.1.1
    modulus: int
    exponent: int


@asn1.sequence
class _Name:  # in a SEQUENCE, as above
    rdns: list[asn1.SetOf[list[asn1.TLV]]]


@asn1.sequence
class _GeneralNames:  # in a SEQUENCE, as above
    items: list[asn1.TLV]


@asn1.sequence
class _Address:  # GeneralNames of one iPAddress
    octets: Annotated[bytes, asn1.Implicit(7)]


ANY_ADDRESS = asn1.encode_der(_Address(octets=b""))
"""The value of a subjectAltName in a template whose one IP address the client fills in (RFC 9908, section 3.4)."""


# --- As values


@dataclass(frozen=True, slots=True)
class CsrAttribute:
    """A type, and its values in DER; of a type of key, as `rsaEncryption`, the values may be none (RFC 9908, section 3.2).

    The values are put in the order of DER (X.690, 11.6).
    """

    type: ObjectIdentifier
    values: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(sorted(self.values)))


@dataclass(frozen=True, slots=True)
class NamePart:
    """An attribute of a subject: the one value, in DER, that a request must have there, or None where the client fills it in."""

    type: ObjectIdentifier
    value: bytes | None = None

    @classmethod
    def fixed(cls, attribute: x509.NameAttribute[str]) -> NamePart:
        """An attribute with its value."""
        around = asn1.encode_der(_Around(element=_element(x509.Name([attribute]).public_bytes())))
        return _read_part(asn1.decode_der(_Name, around).rdns[0].as_list()[0])


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyTemplate:
    """The key that a request must have: AlgorithmIdentifier, and for the size of an RSA key a placeholder of that size.

    `parameters` are DER, `public_key` is the content of the BIT STRING.
    """

    algorithm: ObjectIdentifier
    parameters: bytes | None = None
    public_key: bytes | None = None

    @classmethod
    def rsa(cls, bits: int) -> KeyTemplate:
        """An RSA key of this size (RFC 9908, section 3.4: a dummy key of the desired modulus length)."""
        placeholder = asn1.encode_der(_RSAPublicKey(modulus=2 ** (bits - 1) + 1, exponent=_EXPONENT))
        return cls(algorithm=RSA_ENCRYPTION, parameters=_NULL, public_key=placeholder)

    @property
    def rsa_bits(self) -> int | None:
        """The size that the placeholder stands for; None where there is none. Raises ValueError where it is no RSA key."""
        if self.algorithm != RSA_ENCRYPTION or self.public_key is None:
            return None
        try:
            return asn1.decode_der(_RSAPublicKey, self.public_key).modulus.bit_length()
        except _PARSE_ERRORS as error:
            raise ValueError("the placeholder of the template is no RSA key") from error

    @property
    def curve(self) -> ObjectIdentifier | None:
        """The named curve of an EC key. Raises ValueError where the parameters are not one."""
        if self.algorithm != EC_PUBLIC_KEY or self.parameters is None:
            return None
        return _identifier(self.parameters)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtensionTemplate:
    """An extension to ask for; `value` is the DER of the extension's value, or None where the client fills it in."""

    type: ObjectIdentifier
    critical: bool = False
    value: bytes | None = None

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the value is left to the client (RFC 9908, section 3.4: an empty address or directory name is)."""
        if self.value is None:
            return False
        return self.type != SUBJECT_ALTERNATIVE_NAME or not _has_gaps(self.value)


def alternative_names(names: Sequence[x509.GeneralName], *, and_any_address: bool = False) -> bytes:
    """The value of a subjectAltName with these names, and with an IP address that the client fills in.

    Raises ValueError where there is nothing in it.
    """
    if not names and not and_any_address:
        raise ValueError("there is no alternative name")
    value = x509.SubjectAlternativeName(names).public_bytes() if names else b""
    items = [*_general_names(value)] if names else []
    if and_any_address:
        items += _general_names(ANY_ADDRESS)
    return _inside(_GeneralNames(items=items))


def _general_names(value: bytes) -> list[asn1.TLV]:
    return asn1.decode_der(_GeneralNames, asn1.encode_der(_Around(element=_element(value)))).items


def _has_gaps(value: bytes) -> bool:
    try:
        names = [asn1.encode_der(name) for name in _general_names(value)]
    except _PARSE_ERRORS:  # whoever puts it into a request will see
        return False
    return any(name in _GAPS for name in names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """CertificationRequestInfoTemplate (RFC 9908, section 3.4): a request of which some parts are left to the client.

    `subject` has RDNs, each of one or more parts; None: no requirement on the subject. `key` None: none on the key.
    """

    subject: tuple[tuple[NamePart, ...], ...] | None = None
    key: KeyTemplate | None = None
    attributes: tuple[CsrAttribute, ...] = ()

    def __post_init__(self) -> None:
        if self.subject is not None:
            ordered = tuple(tuple(sorted(parts, key=_part_der)) for parts in self.subject)
            object.__setattr__(self, "subject", ordered)
        object.__setattr__(self, "attributes", tuple(sorted(self.attributes, key=_attribute_der)))

    @property
    def extensions(self) -> tuple[ExtensionTemplate, ...]:
        """The extensions that a request must ask for, of whichever of the two attributes is there."""
        for attribute in self.attributes:
            if attribute.type in {EXTENSION_REQUEST, EXTENSION_REQ_TEMPLATE}:
                return _extensions(attribute)
        return ()

    @property
    def attribute(self) -> CsrAttribute:
        """The template as an item of CsrAttrs."""
        key = self.key
        structure = _Template(
            version=0,
            subject=None
            if self.subject is None
            else [asn1.SetOf([_part_elements(part) for part in parts]) for parts in self.subject],
            key=None
            if key is None
            else _KeyTemplate(
                algorithm=[
                    _element(asn1.encode_der(key.algorithm)),
                    *([] if key.parameters is None else [_element(key.parameters)]),
                ],
                public_key=None if key.public_key is None else asn1.BitString(key.public_key, 0),
            ),
            attributes=asn1.SetOf([_attribute(attribute) for attribute in self.attributes]),
        )
        return CsrAttribute(CERTIFICATION_REQUEST_INFO_TEMPLATE, (asn1.encode_der(structure),))


@dataclass(frozen=True, slots=True)
class CsrAttributes:
    """CsrAttrs: what a server asks for, in its order. None at all is the same as the answer 204 (RFC 8951, section 4)."""

    items: tuple[ObjectIdentifier | CsrAttribute, ...] = ()

    @property
    def identifiers(self) -> tuple[ObjectIdentifier, ...]:
        """What is asked for by its name alone."""
        return tuple(item for item in self.items if isinstance(item, ObjectIdentifier))

    @property
    def attributes(self) -> tuple[CsrAttribute, ...]:
        """What is asked for with values."""
        return tuple(item for item in self.items if isinstance(item, CsrAttribute))

    @property
    def template(self) -> Template | None:
        """The template, beside which a client that knows templates ignores all else (RFC 9908, section 4).

        Raises ValueError for one that is not as section 3.4 has it; `decode` has looked already.
        """
        found = [item for item in self.attributes if item.type == CERTIFICATION_REQUEST_INFO_TEMPLATE]
        if not found:
            return None
        if len(found) > 1 or len(found[0].values) != 1:
            raise ValueError("the CSR attributes have more than one template, or one without a value")
        return _read_template(found[0].values[0])

    @property
    def extensions(self) -> tuple[ExtensionTemplate, ...]:
        """The extensions asked for without a template. Raises ValueError where they are not as RFC 9908, section 3.2 has them."""
        found = [item for item in self.attributes if item.type == EXTENSION_REQUEST]
        if len(found) > 1:
            raise ValueError("the CSR attributes have two extension requests")
        return _extensions(found[0]) if found else ()


def extension_request(extensions: Sequence[ExtensionTemplate]) -> CsrAttribute:
    """The attribute that asks for extensions: the one of PKCS#9, or of RFC 9908 where a value is left to the client.

    RFC 9908, section 3.4: the first wherever all extensions have their whole values.
    """
    complete = all(extension.is_whole for extension in extensions)
    structure = _Extensions(
        items=[_Extension(type=item.type, critical=item.critical, value=item.value) for item in extensions]
    )
    return CsrAttribute(EXTENSION_REQUEST if complete else EXTENSION_REQ_TEMPLATE, (_inside(structure),))


def encode(asked: CsrAttributes) -> bytes:
    """The DER of CsrAttrs. Raises ValueError for a value that is no DER element."""
    items = [item if isinstance(item, ObjectIdentifier) else _attribute(item) for item in asked.items]
    return _inside(_CsrAttrs(items=items))


def decode(der: bytes) -> CsrAttributes:
    """Read CsrAttrs. Raises ValueError for what is no DER, too long, or has a template that is not as RFC 9908, section 3.4 says."""
    if len(der) > MAX_CSRATTRS:
        raise ValueError(f"the CSR attributes are longer than {MAX_CSRATTRS} bytes")
    try:
        structure = asn1.decode_der(_CsrAttrs, asn1.encode_der(_Around(element=_element(der))))
    except _PARSE_ERRORS as error:
        raise ValueError("these are no CSR attributes") from error
    if len(structure.items) > _MAX_ITEMS:
        raise ValueError(f"there are more than {_MAX_ITEMS} CSR attributes")
    asked = CsrAttributes(tuple(_read_item(item) for item in structure.items))
    if (template := asked.template) is not None:
        _check_template(template)
    return asked


# --- From structures, and to them


def _element(der: bytes) -> asn1.TLV:
    try:
        return asn1.decode_der(asn1.TLV, der)
    except _PARSE_ERRORS as error:
        raise ValueError("a value in the CSR attributes is no DER element") from error


def _inside(structure: _CsrAttrs | _Extensions | _GeneralNames) -> bytes:
    """The DER of the one list in a structure."""
    return asn1.encode_der(asn1.decode_der(_Around, asn1.encode_der(structure)).element)


def _identifier(der: bytes) -> ObjectIdentifier:
    try:
        return asn1.decode_der(ObjectIdentifier, der)
    except _PARSE_ERRORS as error:
        raise ValueError("there is something else in place of an object identifier") from error


def _attribute(attribute: CsrAttribute) -> _Attribute:
    return _Attribute(type=attribute.type, values=asn1.SetOf([_element(value) for value in attribute.values]))


def _attribute_der(attribute: CsrAttribute) -> bytes:
    return asn1.encode_der(_attribute(attribute))


def _part_elements(part: NamePart) -> list[asn1.TLV]:
    return [_element(asn1.encode_der(part.type)), *([] if part.value is None else [_element(part.value)])]


def _part_der(part: NamePart) -> bytes:
    return b"".join(asn1.encode_der(element) for element in _part_elements(part))


def _read_item(item: ObjectIdentifier | _Attribute) -> ObjectIdentifier | CsrAttribute:
    return item if isinstance(item, ObjectIdentifier) else _read_attribute(item)


def _read_attribute(attribute: _Attribute) -> CsrAttribute:
    return CsrAttribute(attribute.type, tuple(asn1.encode_der(value) for value in attribute.values.as_list()))


def _read_template(der: bytes) -> Template:
    try:
        structure = asn1.decode_der(_Template, der)
    except _PARSE_ERRORS as error:
        raise ValueError("the template in the CSR attributes cannot be read") from error
    if structure.version != 0:
        raise ValueError("the version of the template is not 0")
    subject = structure.subject
    return Template(
        subject=None
        if subject is None
        else tuple(tuple(_read_part(part) for part in parts.as_list()) for parts in subject),
        key=None if structure.key is None else _read_key(structure.key),
        attributes=tuple(_read_attribute(attribute) for attribute in structure.attributes.as_list()),
    )


def _read_part(elements: list[asn1.TLV]) -> NamePart:
    if not 1 <= len(elements) <= 2:
        raise ValueError("a part of the template's subject is neither a type nor a type with a value")
    first, *rest = (asn1.encode_der(element) for element in elements)
    return NamePart(_identifier(first), rest[0] if rest else None)


def _read_key(key: _KeyTemplate) -> KeyTemplate:
    if not 1 <= len(key.algorithm) <= 2:  # RFC 5280, 4.1.1.2: an identifier and at most one parameter
        raise ValueError("the template's key has no AlgorithmIdentifier")
    first, *rest = (asn1.encode_der(element) for element in key.algorithm)
    if key.public_key is not None and key.public_key.padding_bits():
        raise ValueError("the template's placeholder of a key is no whole number of octets")
    return KeyTemplate(
        algorithm=_identifier(first),
        parameters=rest[0] if rest else None,
        public_key=None if key.public_key is None else key.public_key.as_bytes(),
    )


def _extensions(attribute: CsrAttribute) -> tuple[ExtensionTemplate, ...]:
    if len(attribute.values) != 1:
        raise ValueError("a request for extensions has not exactly one value")
    try:
        around = asn1.encode_der(_Around(element=_element(attribute.values[0])))
        items = asn1.decode_der(_Extensions, around).items
    except _PARSE_ERRORS as error:
        raise ValueError("the extensions asked for cannot be read") from error
    if not items or len({item.type for item in items}) != len(items):
        raise ValueError("an extension is asked for twice, or none at all")
    if attribute.type == EXTENSION_REQUEST and any(item.value is None for item in items):
        raise ValueError("an extension request has an extension without a value")
    return tuple(ExtensionTemplate(type=item.type, critical=item.critical, value=item.value) for item in items)


def _check_template(template: Template) -> None:
    """What RFC 9908, section 3.4 forbids beyond the structure."""
    if template.subject is not None and not all(template.subject):
        raise ValueError("the template's subject has an RDN without a part")
    types = [attribute.type for attribute in template.attributes]
    if len(set(types)) != len(types) or {EXTENSION_REQUEST, EXTENSION_REQ_TEMPLATE} <= set(types):
        raise ValueError("the template has an attribute twice, or both requests for extensions")
    # read, since a client will: these raise ValueError
    _ = template.extensions
    if template.key is not None:
        _ = template.key.rsa_bits, template.key.curve
