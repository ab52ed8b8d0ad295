"""Whose names go into a certificate (RULES F1; DESIGN.md, "Whose names go into the certificate"), and its usages."""

from __future__ import annotations

import ipaddress
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from kipuka.api.errors import BadCSR, NameRefused
from kipuka.api.values import Identity
from kipuka.distinguished_names import format_dn, parse_dn
from kipuka.testing.pki import make_key
from kipuka.x509.names import parse_general_name
from kipuka.x509.profiles import Profile, authorise, check_pattern

quick = settings(database=None, max_examples=200)

DEFAULT = Profile(name="default")
EC = make_key("p256").public_key()
DEVICE = Identity(method="otp", name="device-1", subject=parse_dn("CN=device-1"), host_name="device-1")


def grant(profile: Profile = DEFAULT, identity: Identity = DEVICE, *, subject: str = "", sans=(), key=EC, **more):
    names = tuple(parse_general_name(san) if isinstance(san, str) else san for san in sans)
    return authorise(profile, identity, subject=parse_dn(subject), sans=names, public_key=key, **more)


def csr_profile(*, wildcards: bool = False, subject=None, **sans: tuple[str, ...]) -> Profile:
    return Profile(
        name="csr",
        names="csr",
        wildcards=wildcards,
        subject_patterns={"CN": ("*",)} if subject is None else subject,
        san_patterns=sans,
    )


# --- names = "identity"


def test_the_identitys_subject_replaces_whatever_the_csr_says():
    """RULES F1: the curl lines of the chapter work whatever subject the CSR has."""
    for asked in ("", "CN=device-1", "CN=dc1.corp.example,O=Somebody else"):
        assert format_dn(grant(subject=asked).subject) == "CN=device-1"


def test_an_identity_without_a_subject_is_named_by_its_name_and_never_by_the_csr():
    """RULES F1: a plugin that gives no subject does not give every subject."""
    robot = Identity(method="badge", name="robot+7, O=Evil")
    granted = grant(identity=robot, subject="CN=dc1.corp.example").subject
    assert [(attribute.oid, attribute.value) for attribute in granted] == [(NameOID.COMMON_NAME, "robot+7, O=Evil")]
    with pytest.raises(NameRefused, match="64 characters"):
        grant(identity=Identity(method="badge", name="x" * 65))


UPN = x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x07alice@X")
KRB5 = x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.2.2"), b"\x30\x00")
OTHER = x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x05\x00")
ALL = ("dns", "ip", "email", "uri", "upn", "krb5")


@pytest.mark.parametrize(
    ("forms", "names"),
    [
        ((), []),
        (("dns",), ["DNS:a.example"]),
        (("upn",), ["otherName:1.3.6.1.4.1.311.20.2.3=alice@X"]),
        (("krb5", "ip"), ["IP:192.0.2.1", "otherName:1.3.6.1.5.2.2=#3000"]),
        (("email", "uri"), ["email:a@a.example", "URI:urn:x:a"]),
    ],
)
def test_names_of_the_identity_are_issued_unasked_where_the_profile_says_so(forms, names):
    """RULES F1: only what the identity has, and only the forms that are named."""
    texts = ("DNS:a.example", "IP:192.0.2.1", "email:a@a.example", "URI:urn:x:a")
    permitted = (*map(parse_general_name, texts), UPN, KRB5, OTHER)
    identity = Identity(method="gssapi", name="alice@X", subject=parse_dn("CN=a"), permitted_names=permitted)
    profile = Profile(name="p", identity_sans=forms)
    assert list(grant(profile, identity).names) == names
    asked = grant(profile, identity, sans=["DNS:A.example"]).names
    assert sorted(asked) == sorted({*names, "DNS:a.example"})


@pytest.mark.parametrize(
    ("host", "domains", "names"),
    [
        ("ws42", (), []),
        ("ws42", ("example.com", "corp.example"), ["DNS:ws42.corp.example", "DNS:ws42.example.com"]),
        ("Web.example.com", ("corp.example",), ["DNS:web.example.com"]),
        ("not a host", ("example.com",), []),
    ],
)
def test_a_host_name_that_is_issued_unasked_has_a_domain(host, domains, names):
    identity = Identity(method="gssapi", name="h", subject=parse_dn("CN=a"), host_name=host)
    assert list(grant(Profile(name="p", identity_sans=("dns",), san_domains=domains), identity).names) == names


def test_a_wildcard_is_issued_unasked_only_where_the_profile_allows_it():
    star = (x509.DNSName("*.a.example"),)
    identity = Identity(method="otp", name="a", subject=parse_dn("CN=a"), permitted_names=star)
    assert grant(Profile(name="p", identity_sans=ALL), identity).names == ()
    assert grant(Profile(name="p", identity_sans=ALL, wildcards=True), identity).names == ("DNS:*.a.example",)


def test_names_of_the_identity_are_no_names_of_a_profile_that_goes_by_the_request():
    identity = Identity(method="gssapi", name="alice@X", subject=parse_dn("CN=a"), permitted_names=(UPN,))
    profile = Profile(name="csr", names="csr", identity_sans=ALL, subject_patterns={"CN": ("*",)})
    assert grant(profile, identity, subject="CN=a").names == ()


def test_a_host_name_is_granted_as_it_stands_and_in_the_domains_of_the_profile():
    """RULES F1: the client id, or the client id and one of `san_domains`."""
    profile = Profile(name="hosts", san_domains=("example.com", "Corp.Example"))
    granted = grant(profile, sans=("DNS:DEVICE-1", "device-1.example.com", "device-1.corp.example"))
    assert granted.names == ("DNS:device-1", "DNS:device-1.example.com", "DNS:device-1.corp.example")


@pytest.mark.parametrize(
    "san",
    [
        "DNS:dc1.corp.example",
        "DNS:device-1.example.org",
        "DNS:x.device-1.example.com",
        "DNS:device-1.example.com.evil.example",
        "DNS:device-10",
        "DNS:*.example.com",
        "IP:10.0.0.1",
        "email:device-1@example.com",
        "URI:https://device-1.example.com/",
        "dirName:CN=device-1",
        "RID:1.2.3",
        x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x01a"),
        x509.DNSName("device-1\0.example.com"),
        x509.DNSName("device-1."),
        x509.DNSName("10.0.0.1"),
        x509.DNSName(""),
        x509.IPAddress(ipaddress.ip_network("0.0.0.0/0")),
    ],
)
def test_an_alternative_name_that_is_not_the_identitys_is_refused_by_name(san):
    """RULES F1: refused and named, never dropped in silence, beside a good name too."""
    profile = Profile(name="hosts", san_domains=("example.com",))
    asked = parse_general_name(san) if isinstance(san, str) else san
    with pytest.raises(NameRefused) as refused:
        grant(profile, sans=("DNS:device-1.example.com", asked))
    shown = san.split(":", 1)[-1] if isinstance(san, str) else ""
    assert shown in refused.value.detail
    assert refused.value.reason == "name_refused"


@pytest.mark.parametrize("host", ["*", "*.example.com", "10.0.0.1", "a b", "", ".", "a.", "x" * 64, "user@REALM"])
def test_a_client_id_that_is_no_host_name_is_nobodys_dns_name(host):
    """RULES F1: a token for a strange client id grants no strange DNS name."""
    identity = Identity(method="otp", name="odd", subject=parse_dn("CN=odd"), host_name=host)
    profile = Profile(name="hosts", san_domains=("example.com",), wildcards=True)
    for asked in (x509.DNSName(host), x509.DNSName(f"{host}.example.com"), x509.DNSName("a.example.com")):
        with pytest.raises(NameRefused):
            grant(profile, identity, sans=(asked,))


def test_the_names_of_a_client_certificate_are_granted_in_its_own_spelling():
    """RULES F1: those in the client certificate, of whatever form; what is equal by meaning is issued as it was."""
    other = x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x01a")
    permitted = (
        x509.DNSName("a.example"),
        x509.DirectoryName(parse_dn("CN=Device")),
        x509.UniformResourceIdentifier("https://a.example/%7ex"),
        x509.IPAddress(ipaddress.ip_address("10.0.0.1")),
        other,
    )
    identity = Identity(method="mtls", name="CN=a", subject=parse_dn("CN=a"), permitted_names=permitted)
    granted = grant(identity=identity, sans=("DNS:A.EXAMPLE", "dirName:CN=DEVICE", "URI:https://a.example/~x", other))
    san = granted.extensions[-1].value
    assert list(san) == [*permitted[:3], other]


def test_a_name_asked_for_twice_is_issued_once():
    """RULES F1: and in the order of the request."""
    profile = Profile(name="hosts", san_domains=("example.com",))
    granted = grant(profile, sans=("device-1.example.com", "DEVICE-1", "Device-1.Example.com", "device-1"))
    assert granted.names == ("DNS:device-1.example.com", "DNS:device-1")


def test_a_wildcard_needs_the_profile_and_the_identity():
    """RULES F1: wildcards only by profile."""
    identity = Identity(
        method="otp", name="lb", subject=parse_dn("CN=lb"), permitted_names=(x509.DNSName("*.apps.example"),)
    )
    with pytest.raises(NameRefused, match="no wildcards"):
        grant(identity=identity, sans=("*.apps.example",))
    allowing = Profile(name="wild", wildcards=True)
    assert grant(allowing, identity, sans=("*.apps.example",)).names == ("DNS:*.apps.example",)
    for san in ("a.apps.example", "*.example.com"):
        with pytest.raises(NameRefused, match="not permitted"):
            grant(allowing, identity, sans=(san,))


@pytest.mark.parametrize("value", ["a\0b", "a\nb", "a\u202eb", "a\x85"])
def test_control_characters_in_a_subject_are_refused(value):
    """RULES F1: also where an authenticator would have them, and the refusal stays on one line."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, value)])
    with pytest.raises(NameRefused, match="control characters") as refused:
        grant(identity=Identity(method="x", name="x", subject=subject))
    assert value not in refused.value.detail
    email = x509.RFC822Name("a\n@b.example")
    with pytest.raises(NameRefused):
        grant(identity=Identity(method="x", name="x", permitted_names=(email,)), sans=(email,))


def test_a_subject_that_cannot_be_recorded_faithfully_is_refused():
    """RULES F1: record, log and certificate speak of one name."""
    from cryptography.x509.name import _ASN1Type

    for attribute in (
        x509.NameAttribute(NameOID.X500_UNIQUE_IDENTIFIER, b"\x00\x01", _ASN1Type.BitString),
        x509.NameAttribute(NameOID.SERIAL_NUMBER, "a_b"),
    ):
        with pytest.raises(NameRefused, match="is refused"):
            grant(identity=Identity(method="mtls", name="x", subject=x509.Name([attribute])))


def test_a_certificate_has_a_name():
    """RFC 5280, 4.1.2.6: an empty subject needs an alternative name."""
    nobody = Identity(method="mtls", name="nobody", subject=x509.Name([]), permitted_names=(x509.DNSName("a.example"),))
    with pytest.raises(NameRefused, match="no name"):
        grant(identity=nobody)
    with pytest.raises(NameRefused, match="no name"):
        grant(csr_profile())
    assert grant(identity=nobody, sans=("a.example",)).extensions[-1].critical


def test_a_flood_of_names_is_refused():
    """RULES F1: bounded work, bounded certificates."""
    with pytest.raises(NameRefused) as refused:
        grant(sans=("device-1",) * 101)
    assert refused.value.reason == "too_many_names"


# --- names = "csr"


def test_the_csrs_names_are_granted_within_the_patterns():
    """RULES F1: what the CSR asks for, within the profile's patterns."""
    profile = csr_profile(
        subject={"cn": ("dev-*",), "O": ("Example",)},
        dns=("*.example.com",),
        ip=("10.0.0.0/8", "2001:db8::/32"),
        email=("*@example.com",),
        uri=("https://*.example.com/devices/*",),
    )
    granted = grant(
        profile,
        subject="CN=dev-7,O=Example",
        sans=(
            "a.EXAMPLE.com",
            "10.1.2.3",
            "2001:db8::1",
            "email:joe@Example.com",
            "URI:https://a.example.com/devices/7",
        ),
    )
    assert format_dn(granted.subject) == "CN=dev-7,O=Example"
    assert granted.names == (
        "DNS:a.example.com",
        "IP:10.1.2.3",
        "IP:2001:db8::1",
        "email:joe@example.com",
        "URI:https://a.example.com/devices/7",
    )


@pytest.mark.parametrize(
    ("subject", "named"),
    [
        ("CN=server-7,O=Example", "CN=server-7"),
        ("CN=dev-7,O=Other", "O=Other"),
        ("CN=dev-7,OU=Admins", "OU=Admins"),
        ("CN=dev-7+OU=Admins", "OU=Admins"),
        ("CN=dev-7,CN=admin", "CN=admin"),
        ("CN=xdev-7", "CN=xdev-7"),
        ("CN=dev-7,1.2.3.4=a", "1.2.3.4"),
        (r"CN=dev-7\0A", "CN=dev-7"),
    ],
)
def test_a_subject_outside_the_patterns_is_refused_by_name(subject, named):
    """RULES F1: every attribute needs a pattern, each occurrence of it."""
    profile = csr_profile(subject={"CN": ("dev-*",), "O": ("Example",)})
    with pytest.raises(NameRefused) as refused:
        grant(profile, subject=subject)
    assert named in refused.value.detail


def test_a_profile_without_patterns_grants_nothing():
    """RULES F1: denied by default."""
    bare = Profile(name="bare", names="csr")
    for asked in ({"subject": "CN=a"}, {"sans": ("a.example",)}):
        with pytest.raises(NameRefused, match=r"no pattern for CN|fits no dns pattern"):
            grant(bare, **asked)


@pytest.mark.parametrize(
    ("form", "pattern", "good", "bad"),
    [
        (
            "dns",
            "*.example.com",
            ["a.example.com", "A.Example.COM"],
            ["a.b.example.com", "example.com", "a.example.co"],
        ),
        ("dns", "dev-*.example.com", ["dev-1.example.com"], ["dev-1.evil.example.com", "xdev-1.example.com"]),
        ("dns", "*.*.example.com", ["a.b.example.com"], ["a.example.com", "a.b.c.example.com"]),
        ("dns", "a*b*c", ["abc", "a1b2c", "abbc"], ["ab", "acb", "ac"]),
        ("dns", "ab*ba", ["abba", "abxba"], ["aba"]),
        ("dns", "exact.example", ["exact.example"], ["exactly.example", "x.exact.example"]),
        ("ip", "10.0.0.1", ["10.0.0.1"], ["10.0.0.2", "::1"]),
        ("ip", "2001:db8::/32", ["2001:db8:1::1"], ["2001:db9::1", "10.0.0.1"]),
        ("email", "*@example.com", ["a@example.com", "a.b@EXAMPLE.com"], ["a@x.example.com", "a@example.org"]),
        ("email", "joe@*.example.com", ["joe@x.example.com"], ["joe@x.y.example.com", "Joe@x.example.com"]),
        (
            "uri",
            "https://*.example.com/a/*",
            ["https://x.example.com/a/b", "HTTPS://X.example.com:443/a/b", "https://x.example.com/a/b.c"],
            [
                "https://x.y.example.com/a/b",
                "https://x.example.com/a/b/c",
                "https://x.example.com/a/b?c",
                "https://x.example.com/a/..",
                "https://x.example.com/a/%2e%2e",
                "https://u@x.example.com/a/b",
                "https://x:1.example.com/a/b",
                "https://*.example.com/a/b",
                "http://x.example.com/a/b",
                "https://evil.example/.example.com/a/b",
                "https://evil.example?.example.com/a/b",
                "https://x.example.com:8443/a/b",
            ],
        ),
        ("uri", "urn:uuid:*", ["urn:uuid:1-2"], ["urn:uuid:1:2", "urn:oid:1"]),
        ("uri", "spiffe://example.org/ns/*", ["spiffe://Example.org/ns/a"], ["spiffe://example.org/ns/a/b"]),
    ],
)
def test_a_star_stays_within_its_part_of_the_name(form, pattern, good, bad):
    """RULES F1: no dot of a DNS name, no `@`, no delimiter of a URI is crossed."""
    profile = csr_profile(**{form: (pattern,)})
    constructors = {
        "dns": x509.DNSName,
        "ip": lambda text: x509.IPAddress(ipaddress.ip_address(text)),
        "email": x509.RFC822Name,
        "uri": x509.UniformResourceIdentifier,
    }
    for text in good:
        assert len(grant(profile, subject="CN=a", sans=(constructors[form](text),)).names) == 1, text
    for text in bad:
        with pytest.raises(NameRefused):
            grant(profile, subject="CN=a", sans=(constructors[form](text),))


def test_a_pattern_for_all_names_of_a_domain_grants_its_wildcard_only_where_wildcards_are_allowed():
    """RULES F1: wildcards only by profile, and only where every name they stand for is allowed."""
    with pytest.raises(NameRefused, match="no wildcards"):
        grant(csr_profile(dns=("*.example.com",)), subject="CN=a", sans=("*.example.com",))
    allowing = csr_profile(wildcards=True, dns=("*.example.com", "dev-*.example.org"))
    assert grant(allowing, subject="CN=a", sans=("*.example.com",)).names == ("DNS:*.example.com",)
    for san in ("*.example.org", "*.a.example.com"):
        with pytest.raises(NameRefused):
            grant(allowing, subject="CN=a", sans=(san,))


@pytest.mark.parametrize(
    "name",
    [
        x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x01a"),
        x509.DirectoryName(parse_dn("CN=a")),
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
        x509.IPAddress(ipaddress.ip_network("10.0.0.0/8")),
        x509.DNSName("10.0.0.1"),
        x509.DNSName("a\0.example.com"),
        x509.RFC822Name("a\n@example.com"),
        x509.UniformResourceIdentifier("https://a b/"),
    ],
)
def test_other_forms_and_broken_names_are_refused_whatever_the_patterns(name):
    """RULES F1: forms of names that nobody granted, IP addresses and control characters in DNS names."""
    profile = csr_profile(
        dns=("*", "*.*", "*.*.*", "*.*.*.a"), ip=("0.0.0.0/0",), email=("*@*.*",), uri=("https://*/*",)
    )
    with pytest.raises(NameRefused):
        grant(profile, subject="CN=a", sans=(name,))


def test_the_identitys_own_names_do_not_widen_the_patterns():
    """RULES F1: under names = "csr" the patterns decide."""
    with pytest.raises(NameRefused):
        grant(csr_profile(dns=("*.example.com",)), subject="CN=a", sans=("device-1",))


def test_a_granted_subject_is_written_anew():
    """RFC 5280, 4.1.2.4: no TeletexString is copied that others would read differently."""
    from cryptography.x509.name import _ASN1Type

    asked = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a", _ASN1Type.T61String)])
    granted = authorise(csr_profile(), DEVICE, subject=asked, sans=(), public_key=EC).subject
    assert granted.public_bytes() == parse_dn("CN=a").public_bytes()


@quick
@given(st.text(alphabet=st.sampled_from("ab.*-/:@?#\\"), max_size=12), st.text(alphabet="ab*.", max_size=8))
def test_no_dns_name_outside_a_domain_passes_its_pattern(asked, filler):
    """DESIGN.md, guarantee 5: whatever is asked for, what is granted lies where the pattern says."""
    profile = csr_profile(dns=("*.example.com",))
    for text in (asked, f"{asked}.example.com", f"{filler}{asked}.example.com"):
        try:
            granted = grant(profile, subject="CN=a", sans=(x509.DNSName(text),))
        except NameRefused:
            continue
        (name,) = granted.names
        label = name.removeprefix("DNS:").removesuffix(".example.com")
        assert name == f"DNS:{label}.example.com"
        assert set(label) <= set("ab-")


@quick
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_no_value_of_a_csr_can_add_a_component(value):
    """DESIGN.md, guarantee 5: names cannot be injected."""
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, value)])
    try:
        granted = authorise(csr_profile(subject={"O": ("*",)}), DEVICE, subject=subject, sans=(), public_key=EC)
    except NameRefused:
        return
    assert [(attribute.oid, attribute.value) for attribute in granted.subject] == [(NameOID.ORGANIZATION_NAME, value)]
    assert parse_dn(format_dn(granted.subject)) == granted.subject


def test_patterns_are_matched_in_bounded_time():
    """RULES F1: many stars against a long name are no way to keep a worker busy."""
    profile = csr_profile(subject={"O": ("*a" * 50 + "b",)})
    asked = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "a" * 20_000)])
    with pytest.raises(NameRefused):
        authorise(profile, DEVICE, subject=asked, sans=(), public_key=EC)


# --- Usages


@pytest.mark.parametrize(
    ("kind", "encipherment"), [("rsa2048", True), ("p256", False), ("p384", False), ("ed25519", False)]
)
def test_key_usage_follows_the_kind_of_key(kind, encipherment):
    """RFC 5280, 4.2.1.3: every key signs, an RSA key may carry keys; nothing signs certificates."""
    extension = grant(key=make_key(kind).public_key()).extensions[0]
    usage = extension.value
    assert extension.critical
    assert usage.digital_signature
    assert usage.key_encipherment is encipherment
    assert not any(
        (usage.content_commitment, usage.data_encipherment, usage.key_agreement, usage.key_cert_sign, usage.crl_sign)
    )


def test_the_profile_decides_the_extended_usages():
    """RULES F4: no usage comes from a CSR, which is not even asked."""
    assert list(grant().extensions[1].value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    both = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
    assert tuple(grant(Profile(name="both", extended_key_usage=both)).extensions[1].value) == both
    assert [extension.oid for extension in grant(Profile(name="none", extended_key_usage=())).extensions] == [
        x509.KeyUsage.oid
    ]


def test_alternative_names_are_critical_only_where_the_subject_is_empty():
    """RFC 5280, 4.2.1.6."""
    assert not grant(sans=("device-1",)).extensions[-1].critical
    assert grant(csr_profile(dns=("*",)), sans=("device-1",)).extensions[-1].critical


def test_a_request_to_become_an_authority_is_refused():
    """RULES F4: CA:TRUE is never granted, and not dropped in silence."""
    with pytest.raises(BadCSR, match="certification authority") as refused:
        grant(wants_ca=True)
    assert refused.value.reason == "ca_requested"


# --- The profile itself


@pytest.mark.parametrize(
    "wrong",
    [
        {"san_domains": (".example.com",)},
        {"san_domains": ("10.0.0.1",)},
        {"identity_sans": ("directory",)},
        {"subject_patterns": {"FOO": ("*",)}},
        {"san_patterns": {"upn": ("*",)}},
        {"backdate": timedelta(seconds=-1)},
        {"validity": timedelta(0)},
    ],
)
def test_a_profile_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        Profile(name="wrong", **wrong)


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ("dns", ".example.com"),
        ("dns", "a b"),
        ("dns", "bücher.example"),
        ("dns", "10.0.0.1"),
        ("ip", "10.0.0.1/8"),
        ("ip", "10.*"),
        ("email", "example.com"),
        ("uri", "*"),
        ("uri", "a.example/*"),
    ],
)
def test_a_pattern_that_no_name_can_fit_is_a_mistake(form, pattern):
    with pytest.raises(ValueError, match=r"\w"):
        check_pattern(form, pattern)
    with pytest.raises(ValueError, match=r"\w"):
        Profile(name="wrong", names="csr", san_patterns={form: (pattern,)})
