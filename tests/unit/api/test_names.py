"""Names from templates: whatever a client is called, the name has the template's components and no others (DESIGN.md, guarantee 5)."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID
from hypothesis import example, given
from hypothesis import strategies as st

from kipuka.api import SubjectTemplate, format_dn, parse_dn
from kipuka.distinguished_names import control_character, dn_values

TEMPLATES = [
    "CN={id}",
    "CN={id},OU=Devices\\, all,O=Example,C=DE",
    "UID={id}+CN={id},OU={ou} team,O=Example",
    "CN=x{id}y,OU=\\,{ou}\\+",
    "DC={id},DC=example,DC=com",
    "serialNumber={id}+CN={ou}",
]
HOSTILE = ',+"\\<>;=# /@{}*\x00\n\r\x7f\x85éß\u202e\u2028\u00a0\u0130\ud800aCNOU1.'
_KEY = Ed25519PrivateKey.generate()
hostile = st.one_of(st.text(alphabet=st.sampled_from(HOSTILE), max_size=12), st.text(max_size=12))


def shape(name):
    return [{attribute.oid for attribute in rdn} for rdn in name.rdns]


def values_of(name):
    return sorted((attribute.oid.dotted_string, attribute.value) for attribute in name)


@pytest.mark.parametrize("text", TEMPLATES)
@given(hostile, hostile)
@example("workstation,O=Evil", "x")
@example("workstation+UID=root", "x")
@example('"a",CN="root', "x")
@example("CN=root", "=")
@example("a\\", "\\")
@example("{ou}", "{id}")
@example("#0c0161", "#")
@example("\\2cO\\3dEvil", "\\00")
@example(" a ", "  ")
@example("müller,O=ü", "日本")
@example("a\0,O=Evil", "x")
@example("a\r\nO=Evil", "x")
def test_no_value_changes_the_structure_of_the_name(text, id_, ou):
    """As a value, as text read by our reader, as text read by the library's, and as DER."""
    template = SubjectTemplate(text, known=("id", "ou"))
    components = dn_values(text)
    try:
        name = template.fill({"id": id_, "ou": ou})
    except ValueError:
        return  # such a value has no name: which ones, the tests below say
    expected = [(oid.dotted_string, _pasted(value, id_, ou)) for component in components for oid, value in component]
    forms = (
        name,
        parse_dn(format_dn(name)),
        x509.Name.from_rfc4514_string(format_dn(name), {"serialNumber": NameOID.SERIAL_NUMBER}),
        x509.load_der_x509_csr(_request_for(name)).subject,
    )
    for form in forms:
        assert shape(form) == [{oid for oid, _ in component} for component in components]
        assert values_of(form) == sorted(expected)
    assert control_character(format_dn(name)) is None


def _pasted(text, id_, ou):
    """Text of a value with the fields filled in, by another way than a template does it."""
    return ou.join(part.replace("{id}", id_) for part in text.split("{ou}"))


def _request_for(name):
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(_KEY, None)
    return request.public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize(
    "value",
    [
        "a,O=b",
        "a+O=b",
        "a=b",
        " a",
        "a ",
        "#a",
        '"a"',
        "a\\",
        "a;b",
        "<a>",
        "{x}",
        "{id}",
        "müller",
        "日本",
        "a\u00a0b",
    ],
)
def test_what_is_odd_but_text_is_a_value_as_it_is(value):
    """The property above must not hold because nothing ever fits."""
    template = SubjectTemplate("CN={id},O=Example")
    name = template.fill({"id": value, "x": "another"})
    assert [attribute.value for attribute in name] == ["Example", value]
    assert parse_dn(format_dn(name)) == name


@pytest.mark.parametrize(
    "value", ["a\0b", "\0", "a\nb", "a\rb", "\x1b[2J", "a\x7f", "a\x85", "a\u2028", "a\u202eb", "\ud800"]
)
def test_control_characters_have_no_place_in_a_name(value):
    with pytest.raises(ValueError, match="id has control characters"):
        SubjectTemplate("CN={id}").fill({"id": value})


@pytest.mark.parametrize(
    ("text", "values", "problem"),
    [
        pytest.param("CN={id}", {}, "there is no id", id="no value"),
        pytest.param("CN=x{id}", {"id": ""}, "there is no id", id="an empty one"),
        pytest.param("CN={id}", {"id": "a" * 65}, "length", id="too long"),
        pytest.param("CN={id}", {"id": "ü" * 33}, "length", id="too long in UTF-8"),
        pytest.param("C={id}", {"id": "GER"}, "length", id="no country"),
        pytest.param("DC={id}", {"id": "ü"}, "ASCII", id="not of the string type"),
        pytest.param("serialNumber={id}", {"id": "a_b"}, "letters", id="not printable as X.680 has it"),
    ],
)
def test_a_value_that_does_not_fit_has_no_name(text, values, problem):
    with pytest.raises(ValueError, match=problem) as caught:
        SubjectTemplate(text).fill(values)
    assert not any(value and value in str(caught.value) for value in values.values())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("alice", "alice is not known"),
        ("CN={id},", "attribute such as CN="),
        ("XY={id}", "XY is not known"),
        ("CN={id", "brace"),
        ("CN=id}", "brace"),
        ("CN={}", "brace"),
        ("CN={{id}}", "brace"),
        ("CN={i d}", "brace"),
        ("CN={id}+CN=x", "two attributes of one type"),
        ("C=Germany", "length"),
        ("C=DE{id}", "length"),
        ("CN=" + "x" * 64 + "{id}", "length"),
        ("DC=ü{id}", "ASCII"),
        ("CN={other}", r"no field {other}, only {id}, {Ou}"),
    ],
)
def test_a_template_that_cannot_be_right_is_refused(text, problem):
    with pytest.raises(ValueError, match=problem):
        SubjectTemplate(text, known=("id", "Ou"))


def test_a_template_that_may_have_no_field_is_refused_with_one():
    assert SubjectTemplate("CN=a", known=()).fill({}) == parse_dn("CN=a")
    with pytest.raises(ValueError, match="it has a field"):
        SubjectTemplate("CN={id}", known=())


def test_fields_are_known_in_any_case():
    template = SubjectTemplate("CN={givenName} {SN},UID={2.5.4.5}")
    assert template.fields == {"givenname", "sn", "2.5.4.5"}
    assert format_dn(template.fill({"givenname": "A", "sn": "B", "2.5.4.5": "7"})) == "CN=A B,UID=7"
    assert SubjectTemplate("C={c}", known=("C",)).fill({"c": "DE"}) == parse_dn("C=DE")


def test_templates_of_one_text_are_equal():
    assert SubjectTemplate("CN={id}") == SubjectTemplate("CN={id}", known=("id",))
    assert SubjectTemplate("CN={id}") != SubjectTemplate("CN={name}")
    assert repr(SubjectTemplate("CN={id}")) == "SubjectTemplate(text='CN={id}')"
