"""Who does what `csrattrs` asks for is granted a certificate; who does otherwise hears which rule he broke."""

from __future__ import annotations

import base64
from dataclasses import replace
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID, SignatureAlgorithmOID
from hypothesis import given, settings
from hypothesis import strategies as st

from kipuka.api.errors import ProofOfPossessionFailed, RequestError
from kipuka.api.values import Connection, Identity
from kipuka.csr_attributes import asked_of_requests, csr_attributes
from kipuka.distinguished_names import attribute_type, parse_dn, text_attribute
from kipuka.est.binding import check_binding, refuse_foreign_challenges
from kipuka.est.csr import SIGNATURE_HASHES, CertificateRequest
from kipuka.est.csrattrs import (
    ANY_ADDRESS,
    CHALLENGE_PASSWORD,
    EC_PUBLIC_KEY,
    EXTENSION_REQ_TEMPLATE,
    EXTENSION_REQUEST,
    IDENTITY_LINKING,
    RSA_ENCRYPTION,
    CsrAttribute,
    CsrAttributes,
    KeyTemplate,
    NamePart,
    Template,
    decode,
    encode,
)
from kipuka.testing import der
from kipuka.testing.disobedient import ALWAYS_REFUSED, BREAKERS, ELSEWHERE, Parts, rules_of_the_code
from kipuka.testing.obedient import obedient_csr, wanted_key, wanted_signature
from kipuka.testing.pki import PrivateKey, Request, make_csr, make_key
from kipuka.x509.keys import KEY_NAMES, KeyPolicy, check_key
from kipuka.x509.profiles import Grant, Profile, authorise
from kipuka.x509.templates import ProfileSubject

PRIVATE = x509.ObjectIdentifier("1.3.6.1.4.1.99999.7")
P256, P384 = der.object_identifier("1.2.840.10045.3.1.7"), der.object_identifier("1.3.132.0.34")
BINDING = bytes(range(32))
CONNECTION = Connection(
    id="1",
    listener="est",
    client_address="127.0.0.1",
    client_port=40000,
    tls_version="TLSv1.3",
    cipher="TLS_AES_128_GCM_SHA256",
    tls_exporter=BINDING,
)
KEYS: dict[str, PrivateKey] = {}
DEVICE = Identity(
    method="otp",
    name="device-1",
    subject=parse_dn("CN=device-1,OU=Devices"),
    host_name="device-1.example.com",
    permitted_names=(
        x509.DNSName("other.example.com"),
        x509.DNSName("*.apps.example.com"),
        x509.IPAddress(ip_address("10.0.0.7")),
        x509.RFC822Name("device-1@example.com"),
        x509.UniformResourceIdentifier("urn:device:1"),
    ),
)
VALUES = {
    NameOID.COMMON_NAME: "device-1",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "Devices",
    NameOID.ORGANIZATION_NAME: "Example",
    NameOID.SERIAL_NUMBER: "4711",
}
NAMES = {
    "dns": x509.DNSName("device-1.example.com"),
    "ip": x509.IPAddress(ip_address("10.0.0.7")),
    "email": x509.RFC822Name("device-1@example.com"),
    "uri": x509.UniformResourceIdentifier("urn:device:1"),
}


def key(kind: str | None) -> PrivateKey:
    """One key of each kind for the whole module: RSA keys take long to make."""
    kind = kind or "p256"
    if kind not in KEYS:
        KEYS[kind] = make_key(kind)
    return KEYS[kind]


def policy(*kinds: str, **bits: int) -> KeyPolicy:
    return KeyPolicy(allowed=frozenset(kinds or KEY_NAMES), **bits)


def decide(profile: Profile, request: bytes) -> Grant:
    """What the enrolment does with a request, in its order."""
    csr = CertificateRequest.from_der(request)
    public_key = check_key(csr.public_key_der, profile.key_policy)
    grant = authorise(
        profile,
        DEVICE,
        subject=csr.subject,
        sans=csr.sans,
        public_key=public_key,
        wants_ca=csr.wants_ca,
        asked_extensions=csr.asked_extensions(profile.copy_extensions),
    )
    csr.verify_possession(profile.csr_signature_hashes)
    refuse_foreign_challenges(csr)
    check_binding(
        csr.challenge_password,
        CONNECTION,
        identity_linking=csr.identity_linking,
        required=profile.channel_binding == "required",
    )
    return grant


def obey(profile: Profile, *, templates: bool = True) -> Request:
    asked = asked_of_requests(profile)
    return obedient_csr(
        csr_attributes(profile),
        values=VALUES,
        names=[NAMES[form] for form in profile.san_required or ("dns",) if form in NAMES],
        channel_binding=base64.b64encode(BINDING).decode(),
        key=key(wanted_key(asked, templates=templates)),
        templates=templates,
    )


# --- Who obeys is let in

PATTERNS = {
    "CN": ("device-*", "device-1"),
    "OU": ("Devices", "*"),
    "O": ("Example", "Ex*"),
    "serialNumber": ("4711", "*"),
}
SANS = {
    "dns": ("*.example.com", "device-1.example.com"),
    "ip": ("10.0.0.0/8", "10.0.0.7"),
    "email": ("*@example.com", "device-1@example.com"),
    "uri": ("urn:*:1", "urn:device:1"),
}


def some(patterns: dict[str, tuple[str, ...]], *, least: int) -> st.SearchStrategy[dict[str, tuple[str, ...]]]:
    """Some of the names, each with one of its patterns or both."""
    return st.lists(st.sampled_from(sorted(patterns)), unique=True, min_size=least).flatmap(
        lambda names: st.fixed_dictionaries(
            {name: st.sampled_from([(patterns[name][0],), (patterns[name][1],), patterns[name]]) for name in names}
        )
    )


def of(names, *, least: int = 0) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(sorted(names)), unique=True, min_size=least).map(tuple) if names else st.just(())


key_policies = st.builds(
    lambda kinds, bits: KeyPolicy(allowed=frozenset(kinds), min_rsa_bits=bits[0], max_rsa_bits=bits[1]),
    st.lists(st.sampled_from(KEY_NAMES), min_size=1, unique=True),
    st.sampled_from([(2048, 8192), (3072, 8192), (2048, 4096), (3072, 3072), (2048, 2048)]),
)
general = {
    "name": st.just("any"),
    "key_policy": key_policies,
    "csr_signature_hashes": st.none() | of(SIGNATURE_HASHES, least=1),
    "channel_binding": st.sampled_from(["optional", "required"]),
    "wildcards": st.booleans(),
    "key_usage": st.sampled_from(
        [None, ("digitalSignature",), ("digitalSignature", "keyEncipherment", "keyAgreement")]
    ),
    "copy_extensions": st.sampled_from([(), (PRIVATE,), (PRIVATE, ExtensionOID.TLS_FEATURE)]),
}
csr_profiles = st.tuples(some(PATTERNS, least=1), some(SANS, least=0)).flatmap(
    lambda both: st.builds(
        Profile,
        **general,
        names=st.just("csr"),
        subject_patterns=st.just(both[0]),
        san_patterns=st.just(both[1]),
        san_required=of(both[1]),
        subject=st.none()
        | st.lists(st.sampled_from(sorted(both[0])), unique=True).map(
            lambda fields: ProfileSubject.parse(",".join([*(f"{name}={{{name}}}" for name in fields), "C=DE"]))
        ),
    ).flatmap(
        lambda profile: of(both[0] if profile.subject is None else profile.subject.fields).map(
            lambda required: replace(profile, subject_required=required)
        )
    )
)
identity_profiles = st.builds(
    Profile,
    **general,
    names=st.just("identity"),
    san_domains=st.just(("example.com",)),
    identity_sans=of(SANS),
    san_required=of(SANS),
    subject=st.none()
    | st.just(ProfileSubject.parse("CN={CN},OU={OU},C=DE"))
    | st.just(ProfileSubject.parse("CN={name}")),
    subject_required=of(("CN",)),
)


@settings(max_examples=150)
@given(csr_profiles | identity_profiles, st.booleans())
def test_a_request_that_obeys_passes_the_profile(profile, templates):
    """RFC 8951, section 4; RFC 9908, sections 3 and 4: a client from before templates does too."""
    decide(profile, obey(profile, templates=templates).der)


@settings(max_examples=150)
@given(csr_profiles | identity_profiles)
def test_it_can_be_read_and_has_a_template_only_where_that_hides_nothing(profile):
    """RFC 9908, section 4: beside a template a client that knows them looks at nothing else."""
    asked = asked_of_requests(profile)
    encoded = csr_attributes(profile)
    assert (encoded is None) == (asked == CsrAttributes())
    if encoded is not None:
        assert decode(encoded) == asked
    if asked.template is not None:
        assert profile.channel_binding == "optional"
        assert wanted_signature(asked, templates=False) is None
        assert wanted_key(asked) == wanted_key(asked, templates=False)


@pytest.mark.parametrize(
    ("attribute", "kind"),
    [
        (CsrAttribute(RSA_ENCRYPTION), "rsa2048"),
        (CsrAttribute(RSA_ENCRYPTION, (der.integer(4096),)), "rsa4096"),
        (CsrAttribute(EC_PUBLIC_KEY), "p256"),
        (CsrAttribute(EC_PUBLIC_KEY, (P384,)), "p384"),
        (CsrAttribute(SignatureAlgorithmOID.ED25519), "ed25519"),
        (Template(key=KeyTemplate(algorithm=RSA_ENCRYPTION, parameters=der.null())).attribute, "rsa2048"),
        (Template(key=KeyTemplate(algorithm=EC_PUBLIC_KEY)).attribute, "p256"),
    ],
)
def test_a_client_takes_any_size_or_curve_where_the_server_names_none(attribute, kind):
    """RFC 9908, sections 3.2 and 3.4: without a value nothing but the type is wanted."""
    assert wanted_key(decode(encode(CsrAttributes((attribute,))))) == kind


# --- Who breaks a rule hears which


def refusal(profile: Profile, parts: Parts) -> RequestError:
    with pytest.raises(RequestError) as refused:
        decide(profile, parts.request().der)
    return refused.value


@settings(max_examples=100)
@given(csr_profiles | identity_profiles, st.booleans())
def test_who_breaks_any_one_rule_hears_its_name(profile, templates):
    """From a request that passes; the sentence that the client gets ends with the rule."""
    parts = Parts.of(obey(profile, templates=templates))
    decide(profile, parts.request().der)
    for rule, breaker in BREAKERS.items():
        for broken in breaker(profile, DEVICE, parts):
            refused = refusal(profile, broken)
            assert (refused.rule, refused.detail.endswith(f"(rule {rule})")) == (rule, True), (refused, broken)


@settings(max_examples=40)
@given(csr_profiles | identity_profiles)
def test_what_no_profile_decides_is_refused_by_its_reason_and_names_no_rule(profile):
    parts = Parts.of(obey(profile))
    for reason, breaker in ALWAYS_REFUSED.items():
        for broken in breaker(profile, DEVICE, parts):
            refused = refusal(profile, broken)
            assert (refused.rule, refused.reason) == (None, reason), (refused, broken)


@settings(max_examples=40)
@given(csr_profiles | identity_profiles)
def test_extensions_that_are_the_profiles_affair_change_nothing(profile):
    """A request may ask for usages and the like, even as critical: what is issued is the profile's (RULES F1)."""
    parts = Parts.of(obey(profile))
    asked = [
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
        x509.BasicConstraints(ca=False, path_length=None),
        x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("1.3.6.1.4.1.99999.9"), None)]),
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.8"), b"anything"),
    ]
    more = tuple(x509.Extension(value.oid, True, value) for value in asked)
    assert decide(profile, replace(parts, extensions=more).request().der) == decide(profile, parts.request().der)


STRICT = Profile(
    name="strict",
    names="csr",
    key_policy=policy("p384", "rsa", min_rsa_bits=3072, max_rsa_bits=4096),
    csr_signature_hashes=("sha384",),
    channel_binding="required",
    subject_patterns={"CN": ("device-*",), "O": ("Example",)},
    subject_required=("CN", "O"),
    san_patterns={"dns": ("*.example.com",)},
    san_required=("dns",),
    copy_extensions=(PRIVATE, ExtensionOID.TLS_FEATURE),
)
FILLED = replace(STRICT, subject=ProfileSubject.parse("CN={CN},O={O},C=DE"))
IDENTITY = Profile(name="identity", san_required=("dns",))


@pytest.mark.parametrize("rule", BREAKERS)
def test_every_rule_can_be_broken_under_one_of_the_strict_profiles(rule):
    """So that no breaker is one that never breaks anything."""
    heard = []
    for profile in (STRICT, FILLED, IDENTITY):
        parts = Parts.of(obey(profile))
        heard += [refusal(profile, broken).rule for broken in BREAKERS[rule](profile, DEVICE, parts)]
    assert set(heard) == {rule}


def test_each_rule_of_the_code_has_somebody_who_breaks_it():
    """A rule that is new in the code is missing in one of these two."""
    assert rules_of_the_code() == BREAKERS.keys() | ELSEWHERE.keys()
    assert not BREAKERS.keys() & ELSEWHERE.keys()


def test_a_key_that_can_have_none_of_the_usages_is_refused_by_their_rule():
    """Such a profile is made by hand only: the configuration refuses it."""
    useless = Profile(name="useless", key_usage=("keyEncipherment",))
    with pytest.raises(RequestError) as refused:
        decide(useless, make_csr(key=key("p256")).der)
    assert refused.value.rule == "key_usage"
    decide(useless, make_csr(key=key("rsa2048")).der)


def test_who_leaves_out_the_binding_hears_that_it_is_required():
    unlinked = replace(Parts.of(obey(STRICT)), linking=None)
    with pytest.raises(ProofOfPossessionFailed, match="linking of identity and proof of possession is required"):
        decide(STRICT, unlinked.request().der)


# --- What is asked for, one by one


def test_by_default_nothing_is_asked_for():
    """RFC 8951, section 4: 204. The names are the identity's, and a client's usual key is taken."""
    assert csr_attributes(Profile(name="default")) is None


@pytest.mark.parametrize(
    ("kinds", "bits", "wanted"),
    [
        (("rsa", "p256", "p384"), {}, CsrAttribute(EC_PUBLIC_KEY, (P256,))),
        (("ed25519", "p384"), {}, CsrAttribute(EC_PUBLIC_KEY, (P384,))),
        (("rsa",), {}, CsrAttribute(RSA_ENCRYPTION, (der.integer(2048),))),
        (("rsa", "ed25519"), {"min_rsa_bits": 3072}, CsrAttribute(RSA_ENCRYPTION, (der.integer(3072),))),
        (("ed25519",), {}, CsrAttribute(SignatureAlgorithmOID.ED25519)),
        (("ed448",), {}, CsrAttribute(SignatureAlgorithmOID.ED448)),
        ((), {"min_rsa_bits": 3072}, CsrAttribute(EC_PUBLIC_KEY, (P256,))),
    ],
)
def test_one_key_is_named_where_the_profile_takes_fewer_than_usual(kinds, bits, wanted):
    """RFC 9908, section 3.2: exactly one attribute, with the curve or the size in bits."""
    assert asked_of_requests(Profile(name="keys", key_policy=policy(*kinds, **bits))).items == (wanted,)


@pytest.mark.parametrize(
    ("kinds", "hashes", "wanted"),
    [
        (("p256",), ("sha256", "sha384", "sha512", "sha3-256"), None),
        (("p256",), ("sha384", "sha512"), SignatureAlgorithmOID.ECDSA_WITH_SHA384),
        (("p384",), ("sha256", "sha384"), SignatureAlgorithmOID.ECDSA_WITH_SHA384),
        (("p521",), ("sha256", "sha512"), SignatureAlgorithmOID.ECDSA_WITH_SHA512),
        (("rsa",), ("sha256",), SignatureAlgorithmOID.RSA_WITH_SHA256),
        (("rsa",), ("sha3-512",), SignatureAlgorithmOID.RSA_WITH_SHA3_512),
        (KEY_NAMES, ("sha512",), SignatureAlgorithmOID.ECDSA_WITH_SHA512),
        (("ed25519",), ("sha512",), None),
    ],
)
def test_the_signature_is_named_where_a_usual_hash_would_be_refused(kinds, hashes, wanted):
    """RFC 8951, section 4: signing using a certain hash algorithm."""
    asked = asked_of_requests(Profile(name="hash", key_policy=policy(*kinds), csr_signature_hashes=hashes))
    assert asked.identifiers == (() if wanted is None else (wanted,))


def test_a_required_binding_is_asked_for_in_both_attributes_and_without_a_template():
    """RFC 8951, section 4; RFC 7894, section 4; RULES G1."""
    asked = asked_of_requests(replace(STRICT, csr_signature_hashes=None))
    assert asked.identifiers[:2] == (CHALLENGE_PASSWORD, IDENTITY_LINKING)
    assert asked.template is None
    asked = asked_of_requests(Profile(name="linked", channel_binding="required"))
    assert asked.items == (CHALLENGE_PASSWORD, IDENTITY_LINKING)


WEB = Profile(
    name="web",
    names="csr",
    subject_patterns={"CN": ("device-*",), "O": ("Example",)},
    subject_required=("CN", "O"),
    san_patterns={"dns": ("*.example.com",), "ip": ("10.0.0.0/8",)},
)


def subject_of(profile: Profile) -> list[NamePart]:
    template = asked_of_requests(profile).template
    assert template is not None
    return [part for (part,) in template.subject or ()]


def test_the_names_that_a_request_must_have_are_in_the_template_and_beside_it():
    """RFC 9908, section 3.4: with a value where the profile takes one only."""
    expected = [NamePart(NameOID.COMMON_NAME), NamePart.fixed(text_attribute(NameOID.ORGANIZATION_NAME, "Example"))]
    assert subject_of(WEB) == expected
    assert asked_of_requests(WEB).identifiers == (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME)


def test_a_subject_that_is_put_together_needs_its_fields_only():
    profile = replace(WEB, subject=ProfileSubject.parse("CN={CN},O=Example,C=DE"))
    assert subject_of(profile) == [NamePart(NameOID.COMMON_NAME)]
    fixed = replace(WEB, subject=ProfileSubject.parse("CN={name},C=DE"), subject_required=())
    assert asked_of_requests(fixed) == CsrAttributes()


def test_a_subject_is_to_be_empty_where_no_part_of_it_would_be_taken():
    """RFC 9908, section 3.4: an RDN that is not expected is absent."""
    profile = replace(WEB, subject_patterns={}, subject_required=(), san_required=("dns",))
    template = asked_of_requests(profile).template
    assert template is not None
    assert template.subject == ()
    nameless = obedient_csr(csr_attributes(profile), values=VALUES, names=[NAMES["dns"]], key=key("p256"))
    decide(profile, nameless.der)
    template = asked_of_requests(replace(profile, subject_patterns={"CN": ("*",)})).template
    assert template is not None
    assert template.subject is None


@pytest.mark.parametrize(
    ("patterns", "wanted"),
    [
        ({"CN": ("*",), "O": ("*",)}, [NameOID.COMMON_NAME]),
        ({"O": ("*",), "OU": ("*",)}, [NameOID.ORGANIZATION_NAME]),
    ],
)
def test_some_name_is_asked_for_where_none_is_required(patterns, wanted):
    """A certificate without any name is not issued."""
    profile = replace(WEB, subject_patterns=patterns, subject_required=())
    assert [part.type for part in subject_of(profile)] == wanted


def test_the_names_of_an_identity_are_not_asked_for():
    """They are issued whatever the request says; a form that is not given unasked has to be asked for."""
    profile = Profile(name="own", subject=ProfileSubject.parse("CN={CN},O=Example"), subject_required=("CN",))
    assert csr_attributes(profile) is None
    assert csr_attributes(replace(profile, san_required=("dns",), identity_sans=("dns",))) is None
    template = asked_of_requests(replace(profile, san_required=("dns",))).template
    assert template is not None
    assert [(item.type, item.value) for item in template.extensions] == [(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, None)]
    assert template.subject is None


@pytest.mark.parametrize(
    ("patterns", "kind", "value"),
    [
        ({"dns": ("*.example.com",)}, EXTENSION_REQ_TEMPLATE, None),
        ({"ip": ("10.0.0.0/8",)}, EXTENSION_REQ_TEMPLATE, ANY_ADDRESS),
        ({"dns": ("a.example.com",)}, EXTENSION_REQUEST, der.sequence(der.tlv(0x82, b"a.example.com"))),
        ({"ip": ("10.0.0.7",)}, EXTENSION_REQUEST, der.sequence(der.tlv(0x87, b"\x0a\0\0\7"))),
        ({"ip": ("10.0.0.7",), "dns": ("*.example.com",)}, EXTENSION_REQ_TEMPLATE, None),
        (
            {"ip": ("10.0.0.0/8",), "dns": ("a.example.com",)},
            EXTENSION_REQ_TEMPLATE,
            der.sequence(der.tlv(0x82, b"a.example.com"), der.tlv(0x87, b"")),
        ),
        ({"dns": ("a.example.com", "b.example.com")}, EXTENSION_REQ_TEMPLATE, None),
    ],
)
def test_alternative_names_have_their_value_where_there_is_one_only(patterns, kind, value):
    """RFC 9908, section 3.4; an address that the client fills in is an empty one."""
    profile = Profile(name="san", names="csr", san_patterns=patterns, san_required=tuple(patterns))
    asked = asked_of_requests(profile)
    assert asked.template is not None
    (attribute,) = asked.template.attributes
    assert attribute.type == kind
    assert [item.value for item in asked.template.extensions] == [value]
    beside = asked.extensions if kind == EXTENSION_REQUEST else ()
    assert [item.value for item in beside] == ([value] if kind == EXTENSION_REQUEST else [])
    assert (ExtensionOID.SUBJECT_ALTERNATIVE_NAME in asked.identifiers) == (kind != EXTENSION_REQUEST)


def test_a_value_that_no_attribute_can_have_is_left_to_the_client():
    """Nothing is granted by such a pattern, but it does not keep the server from starting."""
    profile = replace(WEB, subject_patterns={"C": ("Germany",)}, subject_required=("C",))
    assert subject_of(profile) == [NamePart(attribute_type("C"))]
