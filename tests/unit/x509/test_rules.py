"""A request that breaks one rule of a profile is refused, and hears which; the same request without that is granted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from kipuka.api.errors import BadCSR, KeyRefused, NameRefused, ProofOfPossessionFailed
from kipuka.api.values import Identity
from kipuka.distinguished_names import format_dn, parse_dn
from kipuka.est.csr import CertificateRequest
from kipuka.testing.pki import make_csr, make_key
from kipuka.x509.issuance import CertificatePolicy
from kipuka.x509.keys import KEY_NAMES, KeyPolicy, check_key
from kipuka.x509.profiles import Grant, Profile, authorise
from kipuka.x509.templates import ProfileSubject
from kipuka.x509.usages import KEY_USAGES, possible_usages

RSA = make_key("rsa2048")
EC = make_key("p256")
PRIVATE = x509.ObjectIdentifier("1.3.6.1.4.1.99999.7")
DEVICE = Identity(method="otp", name="device-1", subject=parse_dn("CN=device-1"), host_name="device-1")
WEB = Profile(
    name="web",
    names="csr",
    key_policy=KeyPolicy(allowed=frozenset({"rsa", "p256"})),
    csr_signature_hashes=("sha256", "sha384"),
    subject_patterns={"CN": ("device-*",), "O": ("Example",)},
    subject_required=("CN",),
    san_patterns={"dns": ("*.example.com",), "ip": ("10.0.0.0/8",)},
    san_required=("dns",),
    copy_extensions=(PRIVATE, ExtensionOID.TLS_FEATURE),
)
GOOD = {"subject": parse_dn("CN=device-1,O=Example"), "dns": ("a.example.com",), "key": EC}


def extension(value: bytes, *, oid: x509.ObjectIdentifier = PRIVATE, critical: bool = False):
    return x509.Extension(oid, critical, x509.UnrecognizedExtension(oid, value))


def decide(profile: Profile, identity: Identity = DEVICE, *, renewal: bool = False, **asked) -> Grant:
    """What the enrolment does with a request, in its order."""
    csr = CertificateRequest.from_der(make_csr(**(GOOD | asked)).der)
    key = check_key(csr.public_key_der, profile.key_policy)
    grant = authorise(
        profile,
        identity,
        subject=csr.subject,
        sans=csr.sans,
        public_key=key,
        wants_ca=csr.wants_ca,
        asked_extensions=csr.asked_extensions(profile.copy_extensions),
        renewal=renewal,
    )
    csr.verify_possession(profile.csr_signature_hashes)
    return grant


def of(grant: Grant, oid: x509.ObjectIdentifier) -> x509.Extension[x509.ExtensionType] | None:
    return next((found for found in grant.extensions if found.oid == oid), None)


OTHER_KEYS = {"key_policy": KeyPolicy(allowed=frozenset({"ed25519"}))}


@pytest.mark.parametrize(
    ("rule", "changes", "asked", "error"),
    [
        pytest.param("key_types", OTHER_KEYS, {}, KeyRefused, id="kind"),
        pytest.param(
            "min_rsa_bits", {"key_policy": KeyPolicy(min_rsa_bits=3072)}, {"key": RSA}, KeyRefused, id="small"
        ),
        pytest.param(
            "max_rsa_bits",
            {"key_policy": KeyPolicy(max_rsa_bits=2048)},
            {"key": make_key("rsa3072")},
            KeyRefused,
            id="large",
        ),
        pytest.param("csr_signature_hashes", {}, {"signature": "sha512"}, ProofOfPossessionFailed, id="hash"),
        pytest.param(
            "csr_signature_hashes", {}, {"signature": "sha512", "key": RSA}, ProofOfPossessionFailed, id="hash, RSA"
        ),
        pytest.param("subject_patterns", {}, {"subject": parse_dn("CN=other,O=Example")}, NameRefused, id="value"),
        pytest.param("subject_patterns", {}, {"subject": parse_dn("CN=device-1,OU=A")}, NameRefused, id="attribute"),
        pytest.param("subject_required", {}, {"subject": parse_dn("O=Example")}, NameRefused, id="no CN"),
        pytest.param("san_patterns", {}, {"dns": ("a.example.org",)}, NameRefused, id="foreign name"),
        pytest.param("san_patterns", {}, {"ip": ("192.0.2.1",)}, NameRefused, id="foreign address"),
        pytest.param("san_patterns", {}, {"email": ("a@example.com",)}, NameRefused, id="form"),
        pytest.param("san_patterns", {}, {"names": (x509.RegisteredID(PRIVATE),)}, NameRefused, id="odd form"),
        pytest.param("san_required", {}, {"dns": (), "ip": ("10.0.0.1",)}, NameRefused, id="no DNS name"),
        pytest.param("wildcards", {}, {"dns": ("*.example.com",)}, NameRefused, id="wildcard"),
        pytest.param("names", {"names": "identity"}, {"dns": ("a.example.com",)}, NameRefused, id="another's name"),
        pytest.param(
            "subject",
            {"subject": ProfileSubject.parse("CN={CN},O={O}")},
            {"subject": parse_dn("CN=device-1")},
            NameRefused,
            id="nothing to fill in",
        ),
        pytest.param("key_usage", {"key_usage": ("keyEncipherment",)}, {}, KeyRefused, id="no usage left"),
        pytest.param(
            "copy_extensions", {}, {"extensions": (extension(b"\5\0", critical=True),)}, BadCSR, id="critical"
        ),
        pytest.param("copy_extensions", {}, {"extensions": (extension(b"\5\0\0"),)}, BadCSR, id="no DER"),
        pytest.param(
            "copy_extensions", {}, {"extensions": (extension(b"\4\x82\4\0" + bytes(1024)),)}, BadCSR, id="too large"
        ),
        pytest.param(
            "copy_extensions",
            {},
            {"extensions": (extension(b"\5\0", oid=ExtensionOID.TLS_FEATURE),)},
            BadCSR,
            id="not what its type says",
        ),
    ],
)
def test_a_request_that_breaks_one_rule_hears_which(rule, changes, asked, error):
    """RULES C3, F1, F5: the rule's name is the key that an administrator would change, and ends the sentence."""
    with pytest.raises(error) as refused:
        decide(replace(WEB, **changes), **asked)
    assert type(refused.value) is error
    assert refused.value.rule == rule
    assert refused.value.detail.endswith(f" (rule {rule})")


def test_a_request_that_breaks_no_rule_is_granted():
    granted = decide(WEB, extensions=(extension(b"\5\0"),), ip=("10.1.2.3",), signature="sha384")
    assert format_dn(granted.subject) == "CN=device-1,O=Example"
    assert granted.names == ("DNS:a.example.com", "IP:10.1.2.3")


def test_what_is_wrong_with_a_request_whatever_the_profile_has_no_rule():
    with pytest.raises(BadCSR) as refused:
        decide(
            WEB, extensions=(x509.Extension(ExtensionOID.BASIC_CONSTRAINTS, True, x509.BasicConstraints(True, None)),)
        )
    assert refused.value.rule is None
    assert "(rule" not in refused.value.detail


# --- What is issued


@pytest.mark.parametrize("kind", KEY_NAMES)
def test_a_key_gets_of_the_named_usages_those_that_it_can_have(kind):
    """RFC 3279, 2.3.1; RFC 8813, 3: no keyEncipherment with EC; RFC 8410, 5 and RFC 9295: Ed25519 and Ed448 sign only."""
    keys = {"rsa": "rsa2048"}
    profile = Profile(name="p", key_usage=tuple(KEY_USAGES), key_policy=KeyPolicy(allowed=frozenset(KEY_NAMES)))
    granted = decide(profile, key=make_key(keys.get(kind, kind)), dns=())
    usage = of(granted, ExtensionOID.KEY_USAGE).value
    had = {name for name, attribute in KEY_USAGES.items() if getattr(usage, attribute)}
    assert had == possible_usages(kind)
    assert (usage.key_cert_sign, usage.crl_sign) == (False, False)
    assert had >= {"digitalSignature", "contentCommitment"}
    assert ("keyEncipherment" in had, "keyAgreement" in had) == (kind == "rsa", kind in {"p256", "p384", "p521"})


def test_a_profile_says_where_the_ca_is_to_be_asked_and_under_which_policy():
    """RFC 5280, 4.2.1.4, 4.2.1.13, 4.2.2.1: none of them critical."""
    policy = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")
    plain = x509.ObjectIdentifier("1.3.6.1.4.1.99999.2")
    profile = Profile(
        name="p",
        certificate_policies=(
            CertificatePolicy(oid=policy, cps="http://pki.example/cps"),
            CertificatePolicy(oid=plain),
        ),
        ca_issuers=("http://pki.example/ca.cer",),
        ocsp=("http://ocsp.example",),
        crl_distribution_points=("http://pki.example/1.crl", "http://pki.example/2.crl"),
        extended_key_usage_critical=True,
    )
    granted = decide(profile, dns=())
    assert [found.critical for found in granted.extensions] == [True, True, False, False, False]
    assert of(granted, ExtensionOID.CERTIFICATE_POLICIES).value == x509.CertificatePolicies(
        [x509.PolicyInformation(policy, ["http://pki.example/cps"]), x509.PolicyInformation(plain, None)]
    )
    access = of(granted, ExtensionOID.AUTHORITY_INFORMATION_ACCESS).value
    assert [(where.access_method.dotted_string, where.access_location.value) for where in access] == [
        ("1.3.6.1.5.5.7.48.1", "http://ocsp.example"),
        ("1.3.6.1.5.5.7.48.2", "http://pki.example/ca.cer"),
    ]
    (points,) = of(granted, ExtensionOID.CRL_DISTRIBUTION_POINTS).value
    assert [uri.value for uri in points.full_name] == ["http://pki.example/1.crl", "http://pki.example/2.crl"]


def test_listed_extensions_are_copied_and_no_others():
    """RULES F4. What the library knows is written anew, everything else verbatim."""
    must_staple = x509.Extension(ExtensionOID.TLS_FEATURE, False, x509.TLSFeature([x509.TLSFeatureType.status_request]))
    unlisted = extension(b"\5\0", oid=x509.ObjectIdentifier("1.3.6.1.4.1.99999.8"))
    usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING, x509.ObjectIdentifier("1.3.6.1.5.5.7.3.28")])
    asked = (must_staple, extension(b"\x0c\2hi"), unlisted, x509.Extension(usages.oid, False, usages))
    granted = decide(WEB, extensions=asked)
    assert of(granted, ExtensionOID.TLS_FEATURE) == must_staple
    assert of(granted, PRIVATE) == extension(b"\x0c\2hi")
    assert of(granted, unlisted.oid) is None
    assert list(of(granted, ExtensionOID.EXTENDED_KEY_USAGE).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert of(decide(WEB), PRIVATE) is None


# --- The subject that is put together


def test_a_subject_is_put_together_from_what_was_granted():
    template = ProfileSubject.parse("CN={CN},OU=Devices\\, all,O=Example,C=DE")
    assert format_dn(decide(Profile(name="p", subject=template), dns=()).subject) == (
        "CN=device-1,OU=Devices\\, all,O=Example,C=DE"
    )
    asked = replace(WEB, subject=ProfileSubject.parse("CN={CN}-{name},O=Example GmbH"))
    assert format_dn(decide(asked).subject) == "CN=device-1-device-1,O=Example GmbH"


def test_what_is_fixed_in_a_subject_may_be_asked_for():
    """A request may have what the certificate will have anyway, and what a renewal has to repeat."""
    profile = replace(WEB, subject=ProfileSubject.parse("CN={CN},OU=Devices,C=DE"))
    granted = decide(profile, subject=parse_dn("CN=device-1,OU=Devices,C=DE")).subject
    assert format_dn(granted) == "CN=device-1,OU=Devices,C=DE"
    for other in ("CN=device-1,OU=Admins", "CN=device-1,C=FR", "CN=device-1,ST=Devices"):
        with pytest.raises(NameRefused, match="rule subject_patterns"):
            decide(profile, subject=parse_dn(other))


@pytest.mark.parametrize("evil", ["x,O=Evil", "x+OU=Admins", "{O}", "x\\2cO\\3dEvil", "#0c0165", " x ", 'a"b'])
def test_no_value_becomes_a_component_of_the_subject(evil):
    """DESIGN.md, guarantee 5: what is filled in is one value, whatever it looks like."""
    identity = Identity(method="badge", name=evil)
    profile = Profile(name="p", subject=ProfileSubject.parse("CN={CN},UID={name},O=Example"))
    granted = decide(profile, identity, dns=()).subject
    assert len(granted.rdns) == len(list(granted)) == 3
    assert [attribute.value for attribute in granted] == ["Example", evil, evil]


@pytest.mark.parametrize("name", ["x" * 65, "a\nb", "a\0b"])
def test_a_value_that_cannot_stand_in_a_subject_is_refused(name):
    identity = Identity(method="badge", name=name, subject=parse_dn("CN=a"))
    with pytest.raises(NameRefused):
        decide(Profile(name="p", subject=ProfileSubject.parse("CN={name}")), identity, dns=())


def test_a_renewal_keeps_the_subject_that_was_put_together():
    """RFC 7030, 4.2.2: the subject is that of the certificate, and what is fixed in the template needs no pattern of its own."""
    profile = replace(WEB, subject=ProfileSubject.parse("CN={CN},O=Another,C=DE"))
    first = decide(profile).subject
    assert format_dn(first) == "CN=device-1,O=Another,C=DE"
    assert decide(profile, subject=first, renewal=True).subject == first
    with pytest.raises(NameRefused, match="subject_patterns"):
        decide(profile, subject=parse_dn("CN=device-1,O=Somebody,C=DE"), renewal=True)
    mine = Identity(method="mtls", name="c", subject=parse_dn("CN=old,O=Old"))
    assert decide(Profile(name="p", subject=profile.subject), mine, renewal=True, dns=()).subject == mine.subject


@pytest.mark.parametrize(
    "text", ["", "{CN}", "CN={}", "CN={CN", "CN=CN}", "CN={FOO}", "C=Germany", "CN={CN}+CN=b", "CN", "CN={{CN}}"]
)
def test_what_is_no_subject_is_no_template(text):
    with pytest.raises(ValueError, match=r".{10}"):
        ProfileSubject.parse(text)


def test_required_names_count_as_they_are_issued():
    """A template may supply what is required, and the identity's own names do."""
    profile = Profile(
        name="p",
        subject=ProfileSubject.parse("CN={CN},O=Example"),
        subject_required=("O",),
        san_required=("dns",),
        identity_sans=("dns",),
        san_domains=("example.com",),
    )
    granted = decide(profile, dns=())
    assert (format_dn(granted.subject), granted.names) == ("CN=device-1,O=Example", ("DNS:device-1.example.com",))
