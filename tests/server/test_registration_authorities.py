"""Registration authorities: who may ask for certificates in others' names (RULES F4, G1; RFC 7030, 3.7; RFC 6402, 2.10)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID, NameOID

from kipuka.testing import der
from kipuka.testing.inprocess import InProcessServer
from kipuka.testing.pki import CLIENT_AUTH, CMC_RA, Attribute, Credential, common_name, make_csr, make_root
from kipuka.x509.revocation import Reason

from .records import record, revoke

pytestmark = pytest.mark.server

ANY_USAGE = x509.ObjectIdentifier("2.5.29.37.0")
LISTED = ["CN=*,OU=RA"]


def of_ra(name, unit="RA"):
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


@pytest.fixture(scope="module")
def other():
    return make_root("Another CA")


@pytest.fixture(scope="module")
def server(kipuka_servers, other):
    server = kipuka_servers(
        {
            "tls": {"client_auth": {"trust_anchors": "both.pem"}},
            "est": {
                "registration_authorities": LISTED,
                "label": [
                    {"name": "ra", "profile": "ra"},
                    {"name": "elsewhere", "registration_authorities": ["CN=*,OU=RA elsewhere"]},
                    {"name": "patterns", "profile": "patterns", "registration_authorities": LISTED},
                    {"name": "domains", "profile": "domains", "registration_authorities": LISTED},
                    {"name": "linked", "profile": "linked", "registration_authorities": LISTED},
                ],
            },
            "profile": [
                {"name": "default"},
                {"name": "ra", "extended_key_usage": ["clientAuth", "cmcRA"]},
                {
                    "name": "patterns",
                    "names": "csr",
                    "subject_patterns": {"CN": ["meter-*"]},
                    "san_patterns": {"dns": ["*.meters.example"]},
                },
                {"name": "domains", "san_domains": ["meters.example"]},
                {"name": "linked", "channel_binding": "required"},
            ],
        },
        start=False,
    )
    own = (server.deployment.directory / "client-anchors.pem").read_bytes()
    (server.deployment.directory / "both.pem").write_bytes(own + other.pem)
    return server.start()


@pytest.fixture(scope="module")
def authority(server):
    """By the way of docs/how-to/registration-authority.md: a label of its own, whose profile has the usage."""
    token = server.make_token("gate-1", label="ra", subject="CN=gate-1,OU=RA")
    csr = make_csr(of_ra("gate-1"))
    issued = server.client().enroll(csr, label="ra", token=token.value).certificate
    return Credential(key=csr.key, der=issued.public_bytes(Encoding.DER))


def device_of(csr, answer):
    assert answer.status == 200, answer.text
    return Credential(key=csr.key, der=answer.certificate.public_bytes(Encoding.DER))


def enrol_device(server, authority, name, *, label=None, **more):
    csr = make_csr(common_name=name, **more)
    return device_of(csr, server.client(authority).enroll(csr, label=label))


def test_its_certificate_has_the_usage_that_its_profile_names(authority):
    """RFC 6402, 2.10."""
    usages = authority.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {CLIENT_AUTH, CMC_RA}


def test_it_enrols_others_and_both_are_told_in_record_and_audit(server, authority):
    """RULES F4: the certificate is the device's, the request was the authority's."""
    before = server.last_sequence
    device = enrol_device(server, authority, "meter-1", dns=("Meter-1.example",))
    assert device.subject == common_name("meter-1")
    names = device.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["meter-1.example"]
    recorded = server.recorded(device.certificate)
    assert (recorded["method"], recorded["identity"]) == ("mtls", "CN=gate-1,OU=RA")
    for event in ("certificate_requested", "certificate_issued"):
        found = server.wait_for_audit(event, after=before, on_behalf_of="CN=meter-1")
        assert found["identity"] == "mtls:CN=gate-1,OU=RA"


def test_a_device_that_it_enrolled_renews_by_itself(server, authority):
    """RULES F4: it is a certificate as any other."""
    device = enrol_device(server, authority, "meter-alone")
    assert server.client(device).reenroll(make_csr(device.subject)).status == 200


def test_it_is_held_to_the_profiles_patterns(server, authority):
    """RULES F4, F1: names = "csr"."""
    enrol_device(server, authority, "meter-7", label="patterns", dns=("a.meters.example",))
    for wrong in ({"common_name": "admin"}, {"common_name": "meter-8", "dns": ("a.example",)}):
        refused = server.client(authority).enroll(make_csr(**wrong), label="patterns")
        assert refused.status == 403
        assert "pattern" in refused.text


def test_it_is_held_to_the_profiles_domains(server, authority):
    """RULES F4: names = "identity" with san_domains."""
    enrol_device(server, authority, "meter-9", label="domains", dns=("meter-9.meters.example",))
    for dns in ("meters.example", "notmeters.example", "meter-9"):
        refused = server.client(authority).enroll(make_csr(common_name="meter-9", dns=(dns,)), label="domains")
        assert refused.status == 403
        assert "meters.example" in refused.text


def test_forms_of_names_that_nothing_here_understands_are_refused(server, authority):
    """RULES F1."""
    refused = server.client(authority).enroll(
        make_csr(common_name="odd", names=(x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),))
    )
    assert refused.status == 403
    assert "names of this form are not issued" in refused.text


@pytest.mark.parametrize("new_key", [False, True])
def test_it_renews_for_others(server, authority, new_key):
    """RULES F4; RFC 7030, 4.2.2: the request has the names of a recorded certificate of this label."""
    device = enrol_device(server, authority, f"renewed-{new_key}", dns=(f"r{new_key}.example".lower(),))
    names = (f"R{new_key}.EXAMPLE",)
    before = server.last_sequence
    csr = make_csr(device.subject, key="p384" if new_key else device.key, dns=names)
    renewed = device_of(csr, server.client(authority).reenroll(csr))
    assert renewed.subject == device.subject
    server.wait_for_audit("certificate_issued", after=before, on_behalf_of=f"CN=renewed-{new_key}")


def test_it_renews_only_what_there_is(server, authority):
    """RULES F4, B4, B5: recorded, in force, at this label, under just these names."""
    device = enrol_device(server, authority, "once", dns=("once.example",))
    gone = enrol_device(server, authority, "gone")
    revoke(server.deployment, gone, Reason.CESSATION_OF_OPERATION)
    late = server.deployment.authority().issue_client("late", not_after=datetime.now(UTC) - timedelta(minutes=1))
    record(server.deployment, late)
    client = server.client(authority)
    before = server.last_sequence
    for csr, label in (
        (make_csr(common_name="never-seen"), None),
        (make_csr(device.subject), None),
        (make_csr(device.subject, dns=("once.example", "dc.example")), None),
        (make_csr(device.subject, dns=("once.example",)), "domains"),
        (make_csr(gone.subject), None),
        (make_csr(late.subject), None),
    ):
        refused = client.reenroll(csr, label=label)
        assert refused.status == 403, refused.text
        assert "could be renewed" in refused.text
        server.wait_for_audit("certificate_refused", after=before, reason="nothing_to_renew")


def test_what_is_revoked_while_it_is_being_renewed_gets_no_successor(kipuka_template, tmp_path):
    """RULES B2, F4: the check is made again in the transaction that records; the authority itself is as good as ever."""
    deployment = kipuka_template.copy(tmp_path / "kipuka")
    deployment.configure({"est": {"registration_authorities": LISTED}})
    authority = deployment.authority().issue(of_ra("gate"), extended_key_usage=(CLIENT_AUTH, CMC_RA))
    device = deployment.authority().issue_client("racing")
    record(deployment, authority, device)
    with InProcessServer(deployment) as server, ThreadPoolExecutor() as threads:
        gate = server.stop_at("record")
        answer = threads.submit(server.client(authority).reenroll, make_csr(device.subject))
        gate.wait()
        revoke(deployment, device, Reason.CESSATION_OF_OPERATION)
        gate.open()
        assert answer.result().status == 403
        assert "was revoked" in answer.result().text
        assert server.client(authority).enroll(make_csr(common_name="another")).status == 200


def test_a_key_that_is_recorded_for_another_stays_that_ones(server, authority):
    """RULES F5: unique_keys holds for an authority too."""
    device = enrol_device(server, authority, "owner")
    refused = server.client(authority).enroll(make_csr(common_name="impostor", key=device.key))
    assert refused.status == 400
    assert "unique_keys" in refused.text


def test_it_is_exempt_from_linking_for_others_only(server, authority):
    """RULES G1; RFC 7030, 3.7: what it hands on was linked to another connection, if to any; RFC 7894, 4."""
    client = server.client(authority)
    with client.connect() as another:
        foreign = another.channel_binding
    assert client.enroll(make_csr(common_name="unlinked"), label="linked").status == 200
    answer = client.enroll(make_csr(common_name="linked-elsewhere", challenge_password=foreign), label="linked")
    assert answer.status == 200, answer.text
    otp = Attribute(oid="1.2.840.113549.1.9.16.2.56", values=(der.utf8("checked by the authority"),))
    assert client.enroll(make_csr(common_name="by-otp", attributes=(otp,)), label="linked").status == 200
    own = client.enroll(make_csr(authority.subject, key=authority.key), label="linked")
    assert own.status == 400
    assert "is required" in own.text
    device = enrol_device(server, authority, "no-authority", label="linked")
    assert server.client(device).reenroll(make_csr(device.subject), label="linked").status == 400


def test_it_renews_its_own_certificate_where_it_has_it_from(server, authority):
    """RULES F2: in its own name it is a client as any other."""
    csr = make_csr(authority.subject)
    renewed = device_of(csr, server.client(authority).reenroll(csr, label="ra"))
    enrol_device(server, renewed, "by-the-renewed")


def test_it_makes_no_other_authority(server, authority):
    """RULES F4: the usage comes from a profile, never from a request."""
    usages = x509.Extension(
        ExtensionOID.EXTENDED_KEY_USAGE, critical=False, value=x509.ExtendedKeyUsage([CLIENT_AUTH, CMC_RA])
    )
    csr = make_csr(of_ra("gate-2"), extensions=(usages,))
    made = device_of(csr, server.client(authority).enroll(csr))
    assert list(made.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [CLIENT_AUTH]
    refused = server.client(authority).enroll(make_csr(of_ra("gate-3")), label="ra")
    assert refused.status == 403
    assert "registration authorities of this label" in refused.text


NOT_ONE = "only a registration authority may ask for another's names, and this client certificate is not one's: "
RECORDED: dict = {}
IMPOSTORS = {
    "not recorded": (lambda a, _o: a, {}, None, "ra_not_recorded", "not in this server's record"),
    "of another CA": (lambda _a, o: o, {}, {"ca": "another"}, "ra_other_ca", "not issued by the CA of this label"),
    "without the usage": (
        lambda a, _o: a,
        {"extended_key_usage": (CLIENT_AUTH,)},
        RECORDED,
        "ra_usage_missing",
        "no extended key usage id-kp-cmcRA",
    ),
    "any usage instead": (
        lambda a, _o: a,
        {"extended_key_usage": (CLIENT_AUTH, ANY_USAGE)},
        RECORDED,
        "ra_usage_missing",
        "no extended key usage id-kp-cmcRA",
    ),
    "no usages at all": (
        lambda a, _o: a,
        {"extended_key_usage": None},
        RECORDED,
        "ra_usage_missing",
        "no extended key usage id-kp-cmcRA",
    ),
    "not listed": (
        lambda a, _o: a,
        {"subject": of_ra("gate", "Sales")},
        RECORDED,
        "ra_not_listed",
        "not among the registration authorities",
    ),
    "listed at another label": (
        lambda a, _o: a,
        {"subject": of_ra("gate", "RA elsewhere")},
        {"label": "elsewhere"},
        "ra_not_listed",
        "not among the registration authorities",
    ),
}


@pytest.mark.parametrize("operation", ["simpleenroll", "simplereenroll"])
@pytest.mark.parametrize("case", IMPOSTORS)
def test_nobody_else_is_one(server, other, case, operation):
    """RULES F4: each of its marks is needed; what is missing is told to the client and to the audit log."""
    issuer, changes, recorded, reason, words = IMPOSTORS[case]
    subject = changes.get("subject", of_ra(f"{case} {operation}"))
    more = {"extended_key_usage": (CLIENT_AUTH, CMC_RA)} | {k: v for k, v in changes.items() if k != "subject"}
    impostor = issuer(server.deployment.authority(), other).issue(subject, **more)
    if recorded is not None:
        record(server.deployment, impostor, **recorded)
    target = server.enrol(f"target of {case} {operation}"[:60])
    before = server.last_sequence
    refused = server.client(impostor).enroll(make_csr(target.subject), operation=operation)
    assert refused.status == 403
    assert refused.text.startswith(NOT_ONE)
    assert words in refused.text
    event = server.wait_for_audit("certificate_refused", after=before, reason=reason, operation=operation)
    assert event["data"]["detail"] == refused.text


@pytest.mark.parametrize("operation", ["simpleenroll", "simplereenroll"])
@pytest.mark.parametrize("case", ["revoked", "expired"])
def test_one_whose_time_is_over_is_nobody(server, case, operation):
    """RULES F4, B3: as any other client certificate."""
    end = datetime.now(UTC) + timedelta(hours=-1 if case == "expired" else 1)
    usages = (CLIENT_AUTH, CMC_RA)
    former = server.deployment.authority().issue(
        of_ra(f"former {operation}"), not_before=end - timedelta(days=1), not_after=end, extended_key_usage=usages
    )
    record(server.deployment, former)
    if case == "revoked":
        revoke(server.deployment, former, Reason.KEY_COMPROMISE)
    before = server.last_sequence
    refused = server.client(former).enroll(make_csr(common_name="target"), operation=operation)
    assert refused.status == (401 if operation == "simpleenroll" else 403)
    assert refused.text == f"client certificate {case}"
    server.wait_for_audit("authentication_failed", after=before, reason=case, operation=operation)


def test_a_client_that_is_no_candidate_is_treated_as_ever(server):
    """RULES F1: the subject of a request is replaced, and another's alternative names are refused."""
    device = server.enrol("plain-device")
    answer = server.client(device).enroll(make_csr(common_name="whatever"))
    assert answer.certificate.subject == device.subject
    refused = server.client(device).enroll(make_csr(dns=("dc.example",)))
    assert refused.status == 403
    assert "not permitted" in refused.text
