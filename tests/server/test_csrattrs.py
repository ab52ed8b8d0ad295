"""`GET csrattrs` over the wire: each label says what its profile wants, and a client that obeys is enrolled."""

from __future__ import annotations

import base64
import subprocess

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from pyasn1.codec.der.decoder import decode as other_decode
from pyasn1_alt_modules import rfc7030

from kipuka.api import Identity
from kipuka.config.profiles import build_profile
from kipuka.config.sections import ProfileItem
from kipuka.csr_attributes import csr_attributes
from kipuka.est.csrattrs import CHALLENGE_PASSWORD, IDENTITY_LINKING, decode
from kipuka.testing.disobedient import BREAKERS, Parts
from kipuka.testing.obedient import obedient_csr, wanted_key
from kipuka.testing.pki import make_csr, make_key

pytestmark = pytest.mark.server

WEB = {
    "name": "web",
    "names": "csr",
    "key_types": ["p384", "rsa"],
    "min_rsa_bits": 3072,
    "subject_patterns": {"CN": ["device-*"], "O": ["Example"]},
    "subject_required": ["CN", "O"],
    "san_patterns": {"dns": ["*.example.com"]},
    "san_required": ["dns"],
}
LINKED = {
    "name": "linked",
    "key_types": ["rsa"],
    "min_rsa_bits": 3072,
    "csr_signature_hashes": ["sha512"],
    "channel_binding": "required",
}
STRICT = {
    "name": "strict",
    "names": "csr",
    "key_types": ["p256", "rsa"],
    "min_rsa_bits": 3072,
    "max_rsa_bits": 4096,
    "csr_signature_hashes": ["sha384"],
    "channel_binding": "required",
    "subject_patterns": {"CN": ["device-*"], "O": ["Example"]},
    "subject_required": ["CN", "O"],
    "san_patterns": {"dns": ["*.example.com"]},
    "san_required": ["dns"],
    "copy_extensions": ["1.3.6.1.4.1.99999.7"],
}
FILLED = STRICT | {"name": "filled", "subject": "CN={CN},O={O},C=DE"}
OWN = {"name": "own", "san_required": ["dns"]}
NOT_PERMITTED = {
    "names",
    "wildcards",
    "subject",
    "subject_patterns",
    "subject_required",
    "san_patterns",
    "san_required",
}
VALUES = {NameOID.COMMON_NAME: "device-1"}
NAMES = [x509.DNSName("device-1.example.com")]
PROFILES = (WEB, LINKED, STRICT, FILLED, OWN)


@pytest.fixture(scope="module")
def server(kipuka_servers):
    labels = [{"name": profile["name"], "profile": profile["name"]} for profile in PROFILES]
    return kipuka_servers({"est": {"label": labels}, "profile": [{"name": "default"}, *PROFILES]})


def asked(server, label):
    answer = server.client().csrattrs(label)
    assert answer.status == 200
    assert answer.header("Content-Type") == "application/csrattrs"
    assert answer.header("Content-Transfer-Encoding") == "base64"
    return base64.b64decode(answer.body)


def test_who_obeys_the_template_is_enrolled_and_who_breaks_it_hears_the_rule(server):
    """RFC 9908, section 3.4. The key is the template's P-384, the organisation its fixed value."""
    token = server.make_token(label="web")
    octets = asked(server, "web")
    assert wanted_key(decode(octets)) == "p384"
    refused = server.client().enroll(make_csr(dns=("device-1.example.com",)), token=token.value, label="web")
    assert (refused.status, "(rule key_types)" in refused.text) == (400, True)
    obeying = obedient_csr(octets, values=VALUES, names=NAMES)
    answer = server.client().enroll(obeying, token=token.value, label="web")
    assert answer.status == 200, answer.text
    assert answer.certificate.subject.rfc4514_string() == "O=Example,CN=device-1"


@pytest.mark.parametrize("rule", BREAKERS)
def test_who_breaks_one_rule_hears_it_and_so_does_the_auditor(server, rule):
    """Each over TLS, from the request of a client that does what the answer says; the password is not spent (RULES C2, C3)."""
    item = {"subject": FILLED, "names": OWN}.get(rule, STRICT)
    label = item["name"]
    profile, mistakes = build_profile(ProfileItem.model_validate(item))
    assert not mistakes
    identity = Identity(method="otp", name="device-1", permitted_names=tuple(NAMES))
    octets = asked(server, label) if csr_attributes(profile) else None
    key = make_key(wanted_key(decode(octets)) or "p256")
    values = VALUES | {NameOID.ORGANIZATION_NAME: "Example"}
    token = server.make_token("device-1", label=label, san=["DNS:device-1.example.com"])

    def send(change):
        """RULES G2: a connection that a request was linked to is not used again."""
        with server.client().connect() as connection:
            obeying = obedient_csr(
                octets, values=values, names=NAMES, channel_binding=connection.channel_binding, key=key
            )
            request = change(Parts.of(obeying)).request()
            return server.client().enroll(request, token=token.value, label=label, connection=connection)

    def broken(number):
        return lambda parts: list(BREAKERS[rule](profile, identity, parts))[number]

    for number in (0, -1):
        after = server.last_sequence
        answer = send(broken(number))
        expected = 403 if rule in NOT_PERMITTED else 400
        assert (answer.status, answer.text.rstrip().endswith(f"(rule {rule})")) == (expected, True), answer.text
        server.wait_for_audit("certificate_refused", after=after, rule=rule, detail=answer.text.rstrip())
    assert server.view_token(token)["used"] == 0
    answer = send(lambda parts: parts)
    assert answer.status == 200, answer.text


def test_a_client_from_before_templates_obeys_the_rest(server):
    """RFC 9908, section 4: it ignores the template."""
    token = server.make_token(label="web")
    values = VALUES | {NameOID.ORGANIZATION_NAME: "Example"}
    obeying = obedient_csr(asked(server, "web"), values=values, names=NAMES, templates=False)
    answer = server.client().enroll(obeying, token=token.value, label="web")
    assert answer.status == 200, answer.text


@pytest.mark.parametrize("tls_version", ["TLSv1.2", "TLSv1.3"])
def test_a_required_binding_is_asked_for_and_what_is_asked_for_is_taken(server, tls_version):
    """RFC 8951, section 4; RFC 7894, section 4; RULES G1: the client's estIdentityLinking is enough."""
    octets = asked(server, "linked")
    assert {CHALLENGE_PASSWORD, IDENTITY_LINKING} <= set(decode(octets).identifiers)
    token = server.make_token("device-1", label="linked")
    client = server.client(tls_version=tls_version)
    with client.connect() as connection:
        obeying = obedient_csr(octets, values=VALUES, channel_binding=connection.channel_binding)
        answer = client.enroll(obeying, token=token.value, label="linked", connection=connection)
    assert answer.status == 200, answer.text
    unlinked = obedient_csr(
        octets, values=VALUES, channel_binding=base64.b64encode(bytes(32)).decode(), key=obeying.key
    )
    assert client.enroll(unlinked, token=server.make_token(label="linked").value, label="linked").status == 400


def test_nothing_is_asked_for_where_any_usual_request_will_do(server):
    """RFC 8951, section 4: 204."""
    answer = server.client().csrattrs()
    assert (answer.status, answer.body) == (204, b"")


@pytest.mark.parametrize("label", ["web", "linked"])
def test_other_programs_read_the_answer(server, label, tmp_path):
    """OpenSSL, and an implementation that knows RFC 9908."""
    octets = asked(server, label)
    (tmp_path / "asked").write_bytes(octets)
    command = ["openssl", "asn1parse", "-inform", "DER", "-in", str(tmp_path / "asked")]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert ("challengePassword" in shown) == (label == "linked")
    assert ("secp384r1" in shown) == (label == "web")
    read, rest = other_decode(octets, asn1Spec=rfc7030.CsrAttrs())
    assert not rest
    assert len(read) == len(decode(octets).items)


def test_the_answer_is_that_of_the_configuration_in_force(kipuka_servers):
    """It is made once for each configuration, and a reload brings a new one."""
    server = kipuka_servers({"profile": [{"name": "default"}]})
    assert server.client().csrattrs().status == 204
    server.deployment.configure({"profile": [{"name": "default", "key_types": ["p384"]}]})
    after = server.last_sequence
    server.reload()
    server.wait_for_audit("configuration_loaded", after=after)
    answer = server.client().csrattrs()
    assert wanted_key(decode(base64.b64decode(answer.body))) == "p384"
