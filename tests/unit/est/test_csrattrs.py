"""The body of `csrattrs`: the examples of the RFCs, what is put in comes out, and nothing else gets in."""

from __future__ import annotations

import base64
import subprocess
from contextlib import suppress

import pytest
from cryptography.x509 import DNSName, ObjectIdentifier
from cryptography.x509.oid import NameOID
from hypothesis import example, given
from hypothesis import strategies as st
from pyasn1.codec.der.decoder import decode as other_decode
from pyasn1.codec.der.encoder import encode as other_encode
from pyasn1_alt_modules import rfc7030, rfc9908

from kipuka.distinguished_names import text_attribute
from kipuka.est.csrattrs import (
    ANY_ADDRESS,
    CERTIFICATION_REQUEST_INFO_TEMPLATE,
    CHALLENGE_PASSWORD,
    EC_PUBLIC_KEY,
    EXTENSION_REQ_TEMPLATE,
    EXTENSION_REQUEST,
    MAX_CSRATTRS,
    RSA_ENCRYPTION,
    CsrAttribute,
    CsrAttributes,
    ExtensionTemplate,
    KeyTemplate,
    NamePart,
    Template,
    alternative_names,
    decode,
    encode,
    extension_request,
)
from kipuka.testing import der
from kipuka.testing.hostile.damage import damaged, edits, mend_lengths

P256, P384, P521 = "1.2.840.10045.3.1.7", "1.3.132.0.34", "1.3.132.0.35"
ALTERNATIVE_NAME, KEY_USAGE, EXTENDED_KEY_USAGE = "2.5.29.17", "2.5.29.15", "2.5.29.37"


def oid(text: str) -> ObjectIdentifier:
    return ObjectIdentifier(text)


def der_oid(text: str) -> bytes:
    return der.object_identifier(text)


# RFC 8951, section 4, and RFC 9908, sections 5.1 to 5.6: in base64, with what the text around them says.
EXAMPLES = {
    "RFC 8951, 4": (
        "MEEGCSqGSIb3DQEJBzASBgcqhkjOPQIBMQcGBSuBBAAiMBYGCSqGSIb3DQEJDjEJBgcrBgEBAQEWBggqhkjOPQQDAw==",
        CHALLENGE_PASSWORD,
        CsrAttribute(EC_PUBLIC_KEY, (der_oid(P384),)),
        CsrAttribute(EXTENSION_REQUEST, (der_oid("1.3.6.1.1.1.1.22"),)),  # as before RFC 9908
        oid("1.2.840.10045.4.3.3"),
    ),
    "RFC 9908, 5.1": (
        (
            "MGgwZgYJKoZIhvcNAQkOMVkwVzBVBgNVHREBAf8ESzBJoEcGCCsGAQUFBwgKoDsWOXJmYzg5OTQrZmQ3MzlmYzIzYzM0NDAxMTIyMzM0NDU1"
            "MDAwMDAwMDArQGFjcC5leGFtcGxlLmNvbQ=="
        ),
        CsrAttribute(
            EXTENSION_REQUEST,
            (
                der.sequence(
                    der.sequence(
                        der_oid(ALTERNATIVE_NAME),
                        der.tlv(1, b"\xff"),
                        der.octet_string(
                            der.sequence(
                                der.context(
                                    0,
                                    der_oid("1.3.6.1.5.5.7.8.10")
                                    + der.context(
                                        0, der.tlv(0x16, b"rfc8994+fd739fc23c3440112233445500000000+@acp.example.com")
                                    ),
                                )
                            )
                        ),
                    )
                ),
            ),
        ),
    ),
    "RFC 9908, 5.2": (
        "MDIGCSqGSIb3DQEJBzASBgcqhkjOPQIBMQcGBSuBBAAiBgcrBgEBAQEWBggqhkjOPQQDAw==",
        CHALLENGE_PASSWORD,
        CsrAttribute(EC_PUBLIC_KEY, (der_oid(P384),)),
        oid("1.3.6.1.1.1.1.22"),
        oid("1.2.840.10045.4.3.3"),
    ),
    "RFC 9908, 5.3 and 5.6": (
        "MEUGCSqGSIb3DQEJBzASBgcqhkjOPQIBMQcGBSuBBAAjBgkqhkiG9w0BCRQGCgmSJomT8ixkAQUGA1UEBQYIKoZIzj0EAwQ=",
        CHALLENGE_PASSWORD,
        CsrAttribute(EC_PUBLIC_KEY, (der_oid(P521),)),
        oid("1.2.840.113549.1.9.20"),
        oid("0.9.2342.19200300.100.1.5"),
        NameOID.SERIAL_NUMBER,
        oid("1.2.840.10045.4.3.4"),
    ),
    "RFC 9908, 5.4": (
        "MCkGCSqGSIb3DQEJBzARBgkqhkiG9w0BAQExBAICEAAGCSqGSIb3DQEBCw==",
        CHALLENGE_PASSWORD,
        CsrAttribute(RSA_ENCRYPTION, (der.integer(4096),)),
        oid("1.2.840.113549.1.1.11"),
    ),
    "RFC 9908, 5.5": (
        "MC4GCSqGSIb3DQEJBzASBgcqhkjOPQIBMQcGBSuBBAAiBgNVBAUGCCqGSM49BAMD",
        CHALLENGE_PASSWORD,
        CsrAttribute(EC_PUBLIC_KEY, (der_oid(P384),)),
        NameOID.SERIAL_NUMBER,
        oid("1.2.840.10045.4.3.3"),
    ),
}

# The example in RFC 9908, section 3.4, which stands there as a dump: written by hand with the test kit's writer.
TEMPLATE_DER = der.sequence(
    der.integer(0),
    der.sequence(
        der.set_of(der.sequence(der_oid("2.5.4.3"))),
        der.set_of(der.sequence(der_oid("2.5.4.11"), der.utf8("myDept"))),
        der.set_of(der.sequence(der_oid("2.5.4.11"), der.utf8("myGroup"))),
    ),
    der.context(0, der.sequence(der_oid("1.2.840.10045.2.1"), der_oid(P256))),
    der.context(
        1,
        der.sequence(
            der_oid("1.2.840.113549.1.9.16.2.62"),
            der.set_of(
                der.sequence(
                    der.sequence(
                        der_oid(ALTERNATIVE_NAME),
                        der.octet_string(der.sequence(der.tlv(0x82, b"www.myServer.com"), der.tlv(0x87, b""))),
                    ),
                    der.sequence(der_oid(KEY_USAGE), der.tlv(1, b"\xff"), der.octet_string(b"\x03\x02\x03\x88")),
                    der.sequence(der_oid(EXTENDED_KEY_USAGE)),
                )
            ),
        ),
    ),
)
TEMPLATE = Template(
    subject=(
        (NamePart(NameOID.COMMON_NAME),),
        (NamePart.fixed(text_attribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "myDept")),),
        (NamePart.fixed(text_attribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "myGroup")),),
    ),
    key=KeyTemplate(algorithm=EC_PUBLIC_KEY, parameters=der_oid(P256)),
    attributes=(
        extension_request(
            [
                ExtensionTemplate(
                    type=oid(ALTERNATIVE_NAME),
                    value=der.sequence(der.tlv(0x82, b"www.myServer.com"), der.tlv(0x87, b"")),
                ),
                ExtensionTemplate(type=oid(KEY_USAGE), critical=True, value=b"\x03\x02\x03\x88"),
                ExtensionTemplate(type=oid(EXTENDED_KEY_USAGE)),
            ]
        ),
    ),
)


def around(template: bytes) -> bytes:
    """CsrAttrs of one template."""
    return der.sequence(der.sequence(der_oid("1.2.840.113549.1.9.16.2.61"), der.set_of(template)))


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_examples_of_the_rfcs_are_read_and_written_octet_for_octet(text):
    encoded, *items = EXAMPLES[text]
    octets = base64.b64decode(encoded)
    assert decode(octets) == CsrAttributes(tuple(items))
    assert encode(CsrAttributes(tuple(items))) == octets


def test_the_template_of_rfc_9908_is_read_and_written_octet_for_octet():
    """RFC 9908, section 3.4; the object identifiers from its appendix A."""
    assert TEMPLATE.attribute == CsrAttribute(CERTIFICATION_REQUEST_INFO_TEMPLATE, (TEMPLATE_DER,))
    asked = decode(around(TEMPLATE_DER))
    assert asked.template == TEMPLATE
    assert [item.type for item in asked.template.extensions] == [
        oid(ALTERNATIVE_NAME),
        oid(KEY_USAGE),
        oid(EXTENDED_KEY_USAGE),
    ]
    assert encode(asked) == around(TEMPLATE_DER)


def test_the_extensions_of_the_first_example_are_whole():
    """RFC 9908, section 3.2."""
    (extension,) = decode(base64.b64decode(EXAMPLES["RFC 9908, 5.1"][0])).extensions
    assert (extension.type, extension.critical) == (oid(ALTERNATIVE_NAME), True)
    assert b"acp.example.com" in extension.value


@pytest.mark.parametrize("bits", [2048, 3072, 4096, 8192])
def test_the_size_of_an_rsa_key_is_that_of_a_placeholder(bits):
    """RFC 9908, section 3.4."""
    asked = decode(encode(CsrAttributes((Template(key=KeyTemplate.rsa(bits)).attribute,))))
    assert asked.template.key.rsa_bits == bits
    assert asked.template.subject is None


def test_extensions_with_all_their_values_go_into_the_older_attribute():
    """RFC 9908, section 3.4: the new one only where a value is left out."""
    whole = ExtensionTemplate(type=oid(KEY_USAGE), value=b"\x03\x02\x03\x88")
    assert extension_request([whole]).type == EXTENSION_REQUEST
    assert extension_request([whole, ExtensionTemplate(type=oid(EXTENDED_KEY_USAGE))]).type == EXTENSION_REQ_TEMPLATE


@pytest.mark.parametrize(
    "gap",
    [pytest.param(der.tlv(0x87, b""), id="address"), pytest.param(der.tlv(0xA4, der.sequence()), id="directory name")],
)
def test_alternative_names_with_a_gap_are_no_whole_value(gap):
    """RFC 9908, section 3.4: an address without octets, or a name without RDNs, is the client's to fill in."""
    name = der.tlv(0x82, b"www.myServer.com")
    whole = ExtensionTemplate(type=oid(ALTERNATIVE_NAME), value=der.sequence(name))
    partial = ExtensionTemplate(type=oid(ALTERNATIVE_NAME), value=der.sequence(name, gap))
    assert extension_request([whole]).type == EXTENSION_REQUEST
    assert extension_request([partial]).type == EXTENSION_REQ_TEMPLATE
    assert ExtensionTemplate(type=oid(KEY_USAGE), value=der.sequence(gap)).is_whole


def test_alternative_names_are_written_with_an_address_to_fill_in():
    assert alternative_names([], and_any_address=True) == ANY_ADDRESS
    names = [DNSName("www.example.com")]
    assert alternative_names(names) == der.sequence(der.tlv(0x82, b"www.example.com"))
    expected = der.sequence(der.tlv(0x82, b"www.example.com"), der.tlv(0x87, b""))
    assert alternative_names(names, and_any_address=True) == expected
    with pytest.raises(ValueError, match="no alternative name"):
        alternative_names([])


def test_nothing_asked_for_is_an_empty_sequence():
    """RFC 8951, section 4: the same as a 204."""
    assert encode(CsrAttributes()) == b"\x30\x00"
    assert decode(b"\x30\x00") == CsrAttributes()


# --- Others read it


def test_another_implementation_reads_the_template_as_we_wrote_it():
    octets = encode(
        CsrAttributes((CHALLENGE_PASSWORD, CsrAttribute(EC_PUBLIC_KEY, (der_oid(P256),)), TEMPLATE.attribute))
    )
    asked, rest = other_decode(octets, asn1Spec=rfc7030.CsrAttrs())
    assert not rest
    assert other_encode(asked) == octets
    assert [item.getName() for item in asked] == ["oid", "attribute", "attribute"]
    attribute = asked[2]["attribute"]
    assert attribute["attrType"] == rfc9908.id_aa_certificationRequestInfoTemplate
    template, rest = other_decode(attribute["attrValues"][0], asn1Spec=rfc9908.CertificationRequestInfoTemplate())
    assert not rest
    assert other_encode(template) == TEMPLATE_DER
    parts = [part for rdn in template["subject"]["rdnSequence"] for part in rdn]
    assert [part["value"].isValue for part in parts] == [False, True, True]
    assert template["subjectPKInfo"]["algorithm"]["algorithm"].prettyPrint() == "1.2.840.10045.2.1"
    assert not template["subjectPKInfo"]["subjectPublicKey"].isValue
    (request,) = template["attributes"]
    assert request["type"] == rfc9908.id_aa_extensionReqTemplate
    extensions, rest = other_decode(request["values"][0], asn1Spec=rfc9908.ExtensionReqTemplate())
    assert not rest
    assert [extension["extnValue"].isValue for extension in extensions] == [True, True, False]


def test_openssl_takes_it_apart(tmp_path):
    (tmp_path / "asked").write_bytes(around(TEMPLATE_DER))
    command = ["openssl", "asn1parse", "-inform", "DER", "-in", str(tmp_path / "asked")]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "myDept" in shown
    assert "X509v3 Subject Alternative Name" in shown


# --- What is put in comes out


identifiers = st.sampled_from(["1.2.3", "2.5.4.3", "2.5.4.10", "1.2.840.113549.1.9.7", "2.999.1.128", P256]).map(oid)
elements = st.recursive(
    st.one_of(
        st.text(max_size=140).map(der.utf8),
        st.integers(0, 2**70).map(der.integer),
        identifiers.map(lambda i: der_oid(i.dotted_string)),
    ),
    lambda inner: st.lists(inner, max_size=3).map(lambda items: der.sequence(*items)),
    max_leaves=4,
)
attributes = st.builds(CsrAttribute, identifiers, st.lists(elements, max_size=3).map(tuple))
parts = st.builds(NamePart, identifiers, st.none() | elements)
extensions = st.builds(
    ExtensionTemplate, type=identifiers, critical=st.booleans(), value=st.none() | st.binary(max_size=9)
)
keys = st.one_of(
    st.sampled_from([1024, 2048, 4096]).map(KeyTemplate.rsa),
    st.builds(
        KeyTemplate, algorithm=st.just(EC_PUBLIC_KEY), parameters=identifiers.map(lambda i: der_oid(i.dotted_string))
    ),
    st.builds(
        KeyTemplate,
        algorithm=st.sampled_from(["1.3.101.112", "1.2.3"]).map(oid),
        parameters=st.none() | elements,
        public_key=st.none() | st.binary(max_size=40),
    ),
)
templates = st.builds(
    Template,
    subject=st.none() | st.lists(st.lists(parts, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple),
    key=st.none() | keys,
    attributes=st.tuples(
        st.lists(attributes, max_size=3, unique_by=lambda item: item.type),
        st.lists(
            st.lists(extensions, min_size=1, max_size=3, unique_by=lambda item: item.type).map(extension_request),
            max_size=1,
        ),
    ).map(lambda both: (*both[0], *both[1])),
)
answers = st.tuples(
    st.lists(identifiers | attributes, max_size=5), st.lists(templates.map(lambda item: item.attribute), max_size=1)
).map(lambda both: CsrAttributes((*both[0], *both[1])))


@given(answers)
def test_what_is_written_is_read_again(asked):
    octets = encode(asked)
    assert decode(octets) == asked
    assert other_decode(octets, asn1Spec=rfc7030.CsrAttrs())[1] == b""


@given(templates)
def test_a_template_that_is_written_is_read_again(template):
    assert decode(encode(CsrAttributes((template.attribute,)))).template == template


# --- Nothing else gets in

GOOD = [base64.b64decode(encoded) for encoded, *_ in EXAMPLES.values()] + [around(TEMPLATE_DER)]


@given(st.binary(max_size=200))
@example(b"")
@example(b"\x30\x80\x00\x00")
def test_random_octets_are_refused_with_a_value_error(octets):
    with suppress(ValueError):
        assert encode(decode(octets)) == octets


@given(st.sampled_from(GOOD), edits(), st.booleans())
def test_damaged_ones_are_refused_or_are_der_of_something_else(octets, changes, mended):
    octets = damaged(octets, changes)
    if mended:  # so that the damage gets past the outermost lengths
        octets = mend_lengths(octets)
    with suppress(ValueError):
        asked = decode(octets)
        assert encode(asked) == octets
        if asked.template is not None:
            assert asked.template.attribute in asked.items


def without(template: Template, **changes) -> bytes:
    fields = {"subject": template.subject, "key": template.key, "attributes": template.attributes}
    return around(Template(**(fields | changes)).attribute.values[0])


WHOLE = extension_request([ExtensionTemplate(type=oid(KEY_USAGE), value=b"\x05\x00")])
PART = extension_request([ExtensionTemplate(type=oid(KEY_USAGE))])


@pytest.mark.parametrize(
    ("octets", "said"),
    [
        (b"\x30\x00\x00", "no CSR attributes"),
        (b"\x31\x00", "no CSR attributes"),
        (b"\x30\x81\x00", "no CSR attributes"),
        (b"\x30\x02\x05\x00", "no CSR attributes"),
        (der.sequence(*[der_oid("1.2.3")] * 129), "more than 128"),
        (der.sequence(der.utf8("x" * MAX_CSRATTRS)), "longer than"),
        (
            der.sequence(der.sequence(der_oid("1.2.3"), der.tlv(0x31, der.integer(2) + der.integer(1)))),
            "no CSR attributes",
        ),
        (around(der.sequence(der.integer(1), der.context(1, b""))), "version"),
        (around(der.sequence(der.integer(0))), "cannot be read"),
        (
            der.sequence(der.sequence(der_oid("1.2.840.113549.1.9.16.2.61"), der.set_of())),
            "more than one",
        ),
        (encode(CsrAttributes((TEMPLATE.attribute, TEMPLATE.attribute))), "more than one template"),
        (around(der.sequence(der.integer(0), der.sequence(der.set_of()), der.context(1, b""))), "without a part"),
        (
            around(der.sequence(der.integer(0), der.sequence(der.set_of(der.sequence())), der.context(1, b""))),
            "neither a type",
        ),
        (without(TEMPLATE, attributes=(WHOLE, PART)), "both requests"),
        (without(TEMPLATE, attributes=(PART, PART)), "twice"),
        (without(TEMPLATE, attributes=(CsrAttribute(EXTENSION_REQUEST, PART.values),)), "without a value"),
        (without(TEMPLATE, attributes=(CsrAttribute(EXTENSION_REQ_TEMPLATE, (der.sequence(),)),)), "none at all"),
        (without(TEMPLATE, attributes=(CsrAttribute(EXTENSION_REQ_TEMPLATE, ()),)), "exactly one value"),
        (without(TEMPLATE, key=KeyTemplate(algorithm=RSA_ENCRYPTION, public_key=b"\x30\x00")), "no RSA key"),
        (without(TEMPLATE, key=KeyTemplate(algorithm=EC_PUBLIC_KEY, parameters=der.null())), "object identifier"),
    ],
)
def test_what_the_rfc_forbids_is_refused_by_name(octets, said):
    """RFC 8951, section 4; RFC 9908, section 3.4."""
    with pytest.raises(ValueError, match=said):
        decode(octets)


def test_any_address_is_the_empty_one():
    """RFC 9908, section 3.4."""
    assert der.sequence(der.tlv(0x87, b"")) == ANY_ADDRESS
