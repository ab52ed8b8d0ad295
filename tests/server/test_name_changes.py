"""Other names at a renewal: ChangeSubjectName (RULES F3; RFC 6402, 2.8; RFC 7030, 4.2.2)."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from kipuka.distinguished_names import parse_dn
from kipuka.testing import der
from kipuka.testing.pki import Attribute, Credential, common_name, make_csr, make_root
from kipuka.testing.server import wait_until
from kipuka.x509.revocation import Reason

from .records import revoke

pytestmark = pytest.mark.server

CHANGE = "1.3.6.1.5.5.7.7.36"


@pytest.fixture(scope="module")
def server(kipuka_servers):
    patterns = {"subject_patterns": {"CN": ["ws-*"]}, "san_patterns": {"dns": ["*.ws.example"]}}
    changing = {"change_subject_name": True}
    authorities = {"registration_authorities": ["CN=*,OU=RA"]}
    return kipuka_servers(
        {
            "est": {
                "label": [
                    {"name": "free", "profile": "free"},
                    {"name": "lenient", "profile": "lenient"},
                    {"name": "own", "profile": "own", **authorities},
                    {"name": "fixed", **authorities},
                    {"name": "put", "profile": "put"},
                    {"name": "ra", "profile": "ra"},
                ]
            },
            "profile": [
                {"name": "default"},
                {"name": "free", "names": "csr", **patterns, **changing},
                {"name": "lenient", "names": "csr", "reenrol_names": "from-certificate", **patterns, **changing},
                {"name": "own", **changing},
                {"name": "put", "names": "csr", "subject": "CN={CN},O=Example", **patterns, **changing},
                {"name": "ra", "extended_key_usage": ["clientAuth", "cmcRA"]},
            ],
        }
    )


def change(subject=None, *, dns=()):
    """The attribute, with what is not None and not empty in it."""
    fields = []
    if subject is not None:
        fields.append(subject.public_bytes())
    if dns:
        fields.append(x509.SubjectAlternativeName([x509.DNSName(name) for name in dns]).public_bytes())
    return Attribute(oid=CHANGE, values=(der.sequence(*fields),))


def enrolled(server, name, *, label, dns=(), san=()):
    token = server.make_token(name, label=label, san=[f"DNS:{one}" for one in san])
    csr = make_csr(common_name=name, dns=dns)
    answer = server.client().enroll(csr, label=label, token=token.value)
    assert answer.status == 200, answer.text
    return Credential(key=csr.key, der=answer.certificate.public_bytes(Encoding.DER))


def dns_names(certificate):
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.DNSName)


def test_the_new_names_are_issued_within_the_profiles_patterns(server):
    """RULES F3: and the audit log has the names before."""
    device = enrolled(server, "ws-1", label="free", dns=("one.ws.example",))
    before = server.last_sequence
    csr = make_csr(
        device.subject,
        dns=("one.ws.example",),
        attributes=(change(common_name("ws-2"), dns=("two.ws.example", "three.ws.example")),),
    )
    answer = server.client(device).reenroll(csr, label="free")
    assert answer.status == 200, answer.text
    assert answer.certificate.subject == common_name("ws-2")
    assert dns_names(answer.certificate) == ["two.ws.example", "three.ws.example"]
    event = server.wait_for_audit("certificate_issued", after=before, operation="simplereenroll")
    assert (event["data"]["renamed_from"], event["data"]["subject"]) == ("CN=ws-1", "CN=ws-2")


def test_new_names_are_put_together_as_those_of_a_first_certificate_are(server):
    """RULES F1, F3: the profile's `subject` holds for every name that was not in a certificate before."""
    device = enrolled(server, "ws-1", label="put")
    assert device.subject == parse_dn("CN=ws-1,O=Example")
    csr = make_csr(device.subject, attributes=(change(common_name("ws-2")),))
    answer = server.client(device).reenroll(csr, label="put")
    assert answer.status == 200, answer.text
    assert answer.certificate.subject == parse_dn("CN=ws-2,O=Example")


def test_what_the_attribute_does_not_have_is_taken_away(server):
    """RFC 6402, 2.8: no subjectAlt, no alternative name; no subject, an empty one."""
    device = enrolled(server, "ws-3", label="free", dns=("three.ws.example",))
    csr = make_csr(device.subject, dns=("three.ws.example",), attributes=(change(common_name("ws-4")),))
    answer = server.client(device).reenroll(csr, label="free")
    assert (answer.certificate.subject, dns_names(answer.certificate)) == (common_name("ws-4"), [])
    csr = make_csr(device.subject, dns=("three.ws.example",), attributes=(change(dns=("four.ws.example",)),))
    answer = server.client(device).reenroll(csr, label="free")
    assert (answer.certificate.subject.rdns, dns_names(answer.certificate)) == ([], ["four.ws.example"])


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        (change(common_name("admin")), "subject_patterns"),
        (change(common_name("ws-5"), dns=("dc.example",)), "san_patterns"),
    ],
    ids=["subject", "alternative name"],
)
def test_names_beyond_the_patterns_are_refused(server, asked, rule):
    """RULES F3, F1."""
    device = enrolled(server, "ws-5", label="free")
    refused = server.client(device).reenroll(make_csr(device.subject, attributes=(asked,)), label="free")
    assert refused.status == 403
    assert f"(rule {rule})" in refused.text


@pytest.mark.parametrize("label", ["free", "lenient"])
def test_the_requests_own_names_are_still_the_certificates(server, label):
    """RULES F3; RFC 6402, 2.8: also where the profile says reenrol_names = "from-certificate"."""
    device = enrolled(server, "ws-6", label=label)
    client, asked = server.client(device), change(common_name("ws-7"))
    refused = client.reenroll(make_csr(common_name="ws-7", attributes=(asked,)), label=label)
    assert refused.status == 403
    assert "CN=ws-6" in refused.text
    assert client.reenroll(make_csr(device.subject, attributes=(asked,)), label=label).status == 200


def test_where_the_profile_does_not_allow_it_nobody_changes_a_name(server):
    """RULES F3: `change_subject_name` is off by default."""
    device = server.enrol("ws-8")
    before = server.last_sequence
    refused = server.client(device).reenroll(make_csr(device.subject, attributes=(change(common_name("ws-9")),)))
    assert refused.status == 403
    assert "(rule change_subject_name)" in refused.text
    server.wait_for_audit("certificate_refused", after=before, rule="change_subject_name")


def test_with_the_names_of_the_identity_a_client_can_give_names_up_and_take_none(server):
    """RULES F3, F1: it would not get them at simpleenroll either."""
    names = ("a.example", "b.example")
    device = enrolled(server, "ws-10", label="own", dns=names, san=names)
    client = server.client(device)
    for asked, words in (
        (change(common_name("dc")), "CN=dc is not permitted"),
        (change(dns=("a.example",)), "an empty subject is not permitted"),
        (change(device.subject, dns=("dc.example",)), "dc.example is not permitted"),
    ):
        refused = client.reenroll(make_csr(device.subject, dns=names, attributes=(asked,)), label="own")
        assert refused.status == 403
        assert words in refused.text
    csr = make_csr(device.subject, dns=names, attributes=(change(device.subject, dns=("b.example",)),))
    answer = client.reenroll(csr, label="own")
    assert dns_names(answer.certificate) == ["b.example"]


def test_a_registration_authority_changes_others_names(server):
    """RULES F3, F4: where the profile allows it."""
    units = (
        x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "RA"),
        x509.NameAttribute(NameOID.COMMON_NAME, "gate"),
    )
    token = server.make_token("gate", label="ra", subject="CN=gate,OU=RA")
    csr = make_csr(x509.Name(units))
    issued = server.client().enroll(csr, label="ra", token=token.value).certificate
    authority = server.client(Credential(key=csr.key, der=issued.public_bytes(Encoding.DER)))
    asked = change(common_name("ws-12"), dns=("twelve.example",))
    for label, status in (("own", 200), ("fixed", 403)):
        device = enrolled(server, f"ws-11-{label}", label=label)
        before = server.last_sequence
        answer = authority.reenroll(make_csr(device.subject, attributes=(asked,)), label=label)
        assert answer.status == status, answer.text
        if status == 200:
            assert answer.certificate.subject == common_name("ws-12")
            event = server.wait_for_audit("certificate_issued", after=before, renamed_from="CN=ws-11-own")
            assert event["data"]["on_behalf_of"] == "CN=ws-11-own"


def test_the_same_key_under_another_name_is_refused_as_ever(server):
    """RULES F5: `unique_keys`; a new name takes a new key."""
    device = enrolled(server, "ws-13", label="free")
    csr = make_csr(device.subject, key=device.key, attributes=(change(common_name("ws-14")),))
    refused = server.client(device).reenroll(csr, label="free")
    assert refused.status == 400
    assert "(rule unique_keys)" in refused.text


def test_a_first_certificate_has_no_names_to_change(server):
    """RFC 7030, 4.2.2: the attribute goes with simplereenroll; a token is not spent for it."""
    token = server.make_token("ws-15")
    before = server.last_sequence
    csr = make_csr(common_name="ws-15", attributes=(change(common_name("dc")),))
    refused = server.client().enroll(csr, token=token.value)
    assert refused.status == 400
    assert "ChangeSubjectName" in refused.text
    server.wait_for_audit("certificate_refused", after=before, reason="name_change_misplaced")
    assert server.client().enroll(make_csr(common_name="ws-15"), token=token.value).status == 200


def test_an_attribute_that_cannot_be_read_is_told_before_anybody_is_asked(server):
    """RULES C2: 400, and nothing is guessed."""
    refused = server.client().enroll(
        make_csr(attributes=(Attribute(oid=CHANGE, values=(der.sequence(),)),)), token=server.make_token().value
    )
    assert refused.status == 400
    assert "ChangeSubjectName" in refused.text


# --- an administrator's word


def ahead(**time):
    return (datetime.now(UTC) + timedelta(**time)).isoformat()


def approve(server, device, **body):
    digest = device.certificate.fingerprint(SHA256()).hex()
    answer = server.admin("POST", f"/admin/certificates/{digest}/name-change", {"until": ahead(hours=1), **body})
    return answer.status, json.loads(answer.body)


def test_an_administrator_approves_names_that_the_client_could_not_have(server):
    """RULES F3: just these, once, audited with who approved it."""
    device = enrolled(server, "ws-20", label="own")
    before = server.last_sequence
    status, body = approve(server, device, subject="CN=ws-21", names=["DNS:WS-21.example"])
    assert (status, body["subject"], body["names"]) == (200, "CN=ws-21", ["DNS:ws-21.example"])
    approved = server.wait_for_audit("name_change_approved", after=before)
    assert (approved["data"]["subject"], approved["data"]["new_subject"]) == ("CN=ws-20", "CN=ws-21")
    client = server.client(device)
    for asked in (change(common_name("ws-22"), dns=("ws-21.example",)), change(common_name("ws-21"))):
        refused = client.reenroll(make_csr(device.subject, attributes=(asked,)), label="own")
        assert (refused.status, "not permitted" in refused.text) == (403, True)
    asked = change(common_name("ws-21"), dns=("ws-21.example",))
    answer = client.reenroll(make_csr(device.subject, attributes=(asked,)), label="own")
    assert answer.status == 200, answer.text
    assert (answer.certificate.subject, dns_names(answer.certificate)) == (common_name("ws-21"), ["ws-21.example"])
    again = client.reenroll(make_csr(device.subject, attributes=(asked,)), label="own")
    assert again.status == 403


def test_by_the_command_line_too_and_two_at_once_use_it_once(server):
    """RULES F3, K7: beside a running server; of two requests under way one gets the names."""
    device = enrolled(server, "ws-23", label="own")
    digest = device.certificate.fingerprint(SHA256()).hex()
    server.deployment.kipuka("cert", "rename", digest, "--subject", "CN=ws-24", "--until", ahead(hours=1))
    requests = [make_csr(device.subject, attributes=(change(common_name("ws-24")),)) for _ in range(4)]
    with ThreadPoolExecutor() as threads:
        answers = list(threads.map(lambda csr: server.client(device).reenroll(csr, label="own"), requests))
    assert sorted(answer.status for answer in answers) == [200, 403, 403, 403]


def withdraw(server, device):
    digest = device.certificate.fingerprint(SHA256()).hex()
    answer = server.admin("DELETE", f"/admin/certificates/{digest}/name-change")
    return answer.status, json.loads(answer.body)["detail"] if answer.body else None


NOTHING_APPROVED = (404, "no change of names is approved for this certificate")


def test_an_approval_that_was_withdrawn_is_good_for_nothing(server):
    """RULES F3: by the API and by the command line, once, audited with who did it; a new one can be given."""
    device = enrolled(server, "ws-30", label="own")
    digest, asked = device.certificate.fingerprint(SHA256()).hex(), change(common_name("ws-31"))

    def renew():
        return server.client(device).reenroll(make_csr(device.subject, attributes=(asked,)), label="own")

    assert withdraw(server, device) == NOTHING_APPROVED
    assert withdraw(server, make_root().issue_client()) == (404, "there is no such certificate")
    before = server.last_sequence
    assert approve(server, device, subject="CN=ws-31")[0] == 200
    assert withdraw(server, device) == (204, None)
    event = server.wait_for_audit("name_change_withdrawn", after=before)
    assert (event["data"]["fingerprint"], event["data"]["new_subject"]) == (digest, "CN=ws-31")
    assert event["identity"] == "admin:bearer:made by kipuka init"
    assert renew().status == 403
    assert withdraw(server, device) == NOTHING_APPROVED
    assert approve(server, device, subject="CN=ws-31")[0] == 200
    told = server.deployment.kipuka("cert", "withdraw-rename", digest).stderr
    assert "may no longer be renewed as CN=ws-31" in told
    again = server.deployment.kipuka("cert", "withdraw-rename", digest, expect=1).stderr
    assert "no change of names is approved for this certificate" in again
    assert renew().status == 403
    assert approve(server, device, subject="CN=ws-31")[0] == 200
    assert renew().status == 200
    assert withdraw(server, device) == NOTHING_APPROVED, "what was used cannot be withdrawn"


def test_an_approval_that_has_ended_is_deleted_by_the_server(server):
    """By itself; one that still holds stays."""
    ended, standing = (enrolled(server, name, label="own") for name in ("ws-32", "ws-33"))
    digests = [device.certificate.fingerprint(SHA256()).hex() for device in (ended, standing)]

    def left():
        with contextlib.closing(sqlite3.connect(server.deployment.database)) as record:
            return {digest for (digest,) in record.execute("SELECT certificate FROM name_changes")}

    assert approve(server, ended, subject="CN=ws-34", until=ahead(seconds=3))[0] == 200
    assert approve(server, standing, subject="CN=ws-34")[0] == 200
    assert set(digests) <= left()
    wait_until(lambda: digests[0] not in left(), timeout=60, what="the end of what has ended")
    assert digests[1] in left()


def test_an_approval_does_not_go_beyond_the_profile(server):
    """RULES F3: neither where changes are not allowed, nor beyond the patterns."""
    fixed, patterned = server.enrol("ws-25"), enrolled(server, "ws-26", label="free")
    for device, label, rule in ((fixed, None, "change_subject_name"), (patterned, "free", "subject_patterns")):
        assert approve(server, device, subject="CN=dc")[0] == 200
        csr = make_csr(device.subject, attributes=(change(common_name("dc")),))
        refused = server.client(device).reenroll(csr, label=label)
        assert refused.status == 403
        assert f"(rule {rule})" in refused.text


@pytest.mark.parametrize(
    "body",
    [
        {"subject": "CN=a", "until": ahead(hours=-1)},
        {"subject": "CN=a", "until": ahead(days=400)},
        {},
        {"subject": "nonsense"},
        {"names": ["DNS:a b"]},
        {"names": ["RID:1.2.3"]},
        {"subject": "CN=a", "comment": "x"},
    ],
    ids=["past", "far", "no name", "no DN", "no DNS name", "form", "unknown member"],
)
def test_an_approval_that_cannot_be_meant_is_refused(server, body):
    device = enrolled(server, "ws-27", label="own")
    status, answer = approve(server, device, **body)
    assert (status, answer["error"]) in {(400, "invalid_fields"), (400, "malformed_request")}


def test_what_is_not_there_or_revoked_changes_no_names(server):
    stranger = make_root().issue_client()
    assert approve(server, stranger, subject="CN=a")[0] == 404
    device = server.enrol("ws-28")
    revoke(server.deployment, device, Reason.SUPERSEDED)
    assert approve(server, device, subject="CN=a")[0] == 409
