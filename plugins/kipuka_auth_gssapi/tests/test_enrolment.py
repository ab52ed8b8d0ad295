"""Enrolment with a ticket over real TLS: what is issued, what is refused, and what the audit log says of it."""

from __future__ import annotations

import base64
import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from gssapi import RequirementFlag
from kipuka_auth_gssapi.names import KRB5_PRINCIPAL_NAME, UPN

from kipuka.testing.pki import make_csr
from kipuka.testing.server import wait_until

from .conftest import HOST, MACHINE, REKEYED, SERVICE, STRANGE
from .kdc import KERBEROS, PARTNER, REALM, SPNEGO, negotiate

pytestmark = [pytest.mark.kerberos, pytest.mark.server]

FAILED = "GSSAPI authentication failed"
NOT_MAPPED = "principal not mapped"
THREE_LEGS = (RequirementFlag.mutual_authentication, RequirementFlag.dce_style)
OFFER = bytes.fromhex("601b06062b0601050502a011300fa00d300b06092a864886f712010202")
NTLM = b"NTLMSSP\0\x01\0\0\0\x97\x82\x08\xe2" + bytes(24)


def enrol(server, token, **more):
    return server.client().enroll(make_csr(common_name="whatever"), authorization=negotiate(token), **more)


def token_of(answer):
    """The token that came with an answer (RFC 4559, 5)."""
    (challenge,) = answer.all("WWW-Authenticate")
    scheme, _, data = challenge.partition(" ")
    assert scheme == "Negotiate"
    return base64.b64decode(data, validate=True)


def event_of(server, answer, name):
    """The audit record of that event that this very request caused: those of earlier ones may come late."""
    request_id = answer.header("X-Request-Id")

    def find():
        return next((record for record in server.audit(name) if record["request_id"] == request_id), None)

    return wait_until(find, what=f"the event {name}")


def subject_of(answer):
    assert answer.status == 200, answer.text
    return answer.certificate.subject.rfc4514_string()


@pytest.mark.parametrize("mech", [KERBEROS, SPNEGO], ids=["raw", "SPNEGO"])
@pytest.mark.parametrize(
    ("principal", "subject"),
    [
        ("alice", "CN=alice@EXAMPLE.COM,OU=Users,DC=example,DC=com"),
        ("bob", "CN=User,OU=People,DC=example,DC=com"),
        (HOST, "CN=host/web.example.com@EXAMPLE.COM,OU=Users,DC=example,DC=com"),
        (MACHINE, "CN=WS42$@EXAMPLE.COM,OU=Users,DC=example,DC=com"),
    ],
)
def test_a_ticket_gets_a_certificate_with_the_mapped_name(server, realm, principal, subject, mech):
    """The chapter, Principal Mapping; the CSR's subject is replaced; the server proves itself with the success."""
    tickets = realm.kdc.kinit(principal)
    client = tickets.client(mech=mech)
    answer = enrol(server, tickets.step(client))
    assert subject_of(answer) == subject
    tickets.step(client, token_of(answer))
    assert client.complete
    issued = event_of(server, answer, "certificate_issued")
    assert issued["data"]["method"] == "gssapi"
    assert issued["identity"] == f"gssapi:{principal}@{REALM}"


def test_a_ticket_for_any_of_several_service_principals_is_good(server, realm):
    """One server, several names in the URL."""
    tickets = realm.kdc.kinit("alice")
    for service in (SERVICE, REKEYED):
        assert subject_of(enrol(server, tickets.token(service))).startswith("CN=alice@")


def test_a_principal_of_special_characters_is_one_value_of_one_attribute(server, realm):
    """DESIGN, guarantee 5, over the whole way."""
    answer = enrol(server, realm.kdc.kinit(STRANGE).token())
    assert answer.status == 200, answer.text
    (common_name, unit, *domain) = reversed(list(answer.certificate.subject))
    assert common_name.value == f"{STRANGE}@{REALM}"
    assert [part.value for part in (unit, *domain)] == ["Users", "example", "com"]


def skewed(realm):
    tickets = realm.kdc.kinit("alice", lifetime="5h")
    tickets.fetch(SERVICE)
    tickets.shift_clock(3600)
    return tickets.token()


REFUSED = [
    pytest.param(skewed, 401, "clock_skew", id="clock skew"),
    pytest.param(
        lambda realm: realm.kdc.kinit("alice").token(f"HTTP/other@{REALM}"),
        401,
        "unknown_service",
        id="another service",
    ),
    pytest.param(
        lambda realm: realm.kdc.kinit("alice").token(f"host/localhost@{REALM}"),
        401,
        "unknown_service",
        id="another key of the keytab",
    ),
    pytest.param(lambda realm: realm.stale.token(REKEYED), 401, "wrong_key_version", id="wrong key version"),
    pytest.param(lambda realm: realm.kdc.kinit("alice").token()[:-20], 401, None, id="truncated"),
    pytest.param(lambda _: NTLM, 401, "ntlm_token", id="NTLM"),
    pytest.param(lambda _: b"garbage", 401, "malformed_token", id="garbage"),
    pytest.param(lambda _: b"\x60" + bytes(45_000), 401, "malformed_token", id="60 KiB of garbage"),
    pytest.param(
        lambda realm: realm.kdc.kinit(f"carol@{PARTNER}").token(SERVICE), 403, "foreign_realm", id="foreign realm"
    ),
]


@pytest.mark.parametrize(("make", "status", "reason"), REFUSED)
def test_what_is_not_good_is_refused_and_audited_in_words(server, realm, make, status, reason):
    answer = enrol(server, make(realm))
    text, challenges = (FAILED, 2) if status == 401 else (NOT_MAPPED, 0)
    assert (answer.status, answer.text) == (status, text)
    assert len(answer.all("WWW-Authenticate")) == challenges
    failed = event_of(server, answer, "authentication_failed")
    assert reason in {None, failed["data"]["reason"]}
    assert failed["data"]["explanation"]


def test_an_expired_ticket_is_refused_and_audited(exact_server, realm):
    """A ticket of four seconds, at a server that allows for two seconds of difference."""
    token = realm.kdc.kinit("alice", lifetime="4s").token()
    time.sleep(7)
    answer = enrol(exact_server, token)
    assert (answer.status, answer.text) == (401, FAILED)
    assert event_of(exact_server, answer, "authentication_failed")["data"]["reason"] == "ticket_expired"


def test_an_unmapped_principal_is_refused_and_audited(strict_server, realm):
    eve = realm.kdc.kinit("eve").token(bindings=own_binding(strict_server))
    answer = enrol(strict_server, eve)
    assert (answer.status, answer.text) == (403, NOT_MAPPED)
    failed = event_of(strict_server, answer, "authentication_failed")
    assert failed["data"]["reason"] == "principal_not_mapped"
    assert failed["data"]["subject_name"] == f"eve@{REALM}"


def test_a_realm_that_is_named_is_let_in(strict_server, realm):
    carol = realm.kdc.kinit(f"carol@{PARTNER}").token(SERVICE, bindings=own_binding(strict_server))
    assert subject_of(enrol(strict_server, carol)) == "CN=Carol,O=Partner"


def test_a_token_is_taken_once_by_all_processes_of_a_machine(server, strict_server, realm):
    """The second server is another process with the same keys, as another worker is."""
    token = realm.kdc.kinit("bob").token(bindings=own_binding(strict_server))
    assert enrol(server, token).status == 200
    for process in (server, strict_server):
        answer = enrol(process, token)
        assert (answer.status, answer.text) == (401, FAILED)
        failed = event_of(process, answer, "authentication_failed")
        assert failed["data"]["reason"] == "replayed"
    another = realm.kdc.kinit("bob").token(bindings=own_binding(strict_server))
    assert enrol(strict_server, another).status == 200


def test_a_refused_request_has_no_proof_of_the_server_and_the_next_ticket_is_good(server, alice):
    """A name that is refused costs the client a token, not its ticket."""
    refused = server.client().enroll(make_csr(dns=["dc.example.com"]), authorization=negotiate(alice.token()))
    assert refused.status == 403
    assert enrol(server, alice.token()).status == 200


def test_a_request_without_a_ticket_gets_nothing_from_the_one_before(server, alice):
    """RULES C1: Negotiate authenticates one request, never its connection."""
    csr = make_csr()
    with server.client().connect() as connection:
        first = server.client().enroll(csr, authorization=negotiate(alice.token()), connection=connection)
        assert first.status == 200
        second = server.client().enroll(csr, connection=connection)
        assert (second.status, second.text) == (401, "")
        assert [challenge.split()[0] for challenge in second.all("WWW-Authenticate")] == ["Basic", "Negotiate"]


def test_two_authorization_fields_are_refused(server, alice):
    """RULES C1."""
    token = server.make_token("device")
    fields = [("Authorization", negotiate(alice.token()))]
    answer = server.client().enroll(make_csr(), token=token.value, headers=fields)
    assert answer.status == 400
    assert server.view_token(token)["used"] == 0


def test_after_a_bad_ticket_the_next_request_may_bring_a_token(server):
    """RULES C1, C3."""
    token = server.make_token("device")
    with server.client().connect() as connection:
        client, csr = server.client(), make_csr()
        assert client.enroll(csr, authorization=negotiate(NTLM), connection=connection).status == 401
        assert subject_of(client.enroll(csr, token=token.value, connection=connection)) == "CN=device"


def test_a_large_header_passes(server, alice):
    """RULES H1: 72 KiB where Kerberos is on."""
    padding = {"X-Padding": "x" * (64 * 1024)}
    assert enrol(server, alice.token(), headers=padding).status == 200
    assert enrol(server, alice.token(), headers={"X-Padding": "x" * (80 * 1024)}).status == 431


def test_the_header_limit_that_is_written_counts(exact_server, alice):
    answer = enrol(exact_server, alice.token(), headers={"X-Padding": "x" * (20 * 1024)})
    assert answer.status == 431
    assert "server.max_header_size" in exact_server.wait_for_audit("configuration_loaded")["data"]["permissive"]


# --- exchanges of several legs


def leg(server, connection, token):
    return server.client().enroll(make_csr(), authorization=negotiate(token), connection=connection)


def test_an_exchange_of_three_legs_ends_well_on_its_connection(server, alice):
    client = alice.client(flags=THREE_LEGS)
    with server.client().connect() as connection:
        first = leg(server, connection, alice.step(client))
        assert (first.status, first.text) == (401, "")
        second = leg(server, connection, alice.step(client, token_of(first)))
        assert subject_of(second).startswith("CN=alice@")
        third = leg(server, connection, alice.step(client, token_of(first)) or b"\xa1\x00")
        assert third.status == 401


def test_an_exchange_is_bound_to_its_connection(server, alice):
    client = alice.client(flags=THREE_LEGS)
    with server.client().connect() as connection, server.client().connect() as other:
        first = leg(server, connection, alice.step(client))
        stolen = leg(server, other, alice.step(client, token_of(first)))
        assert (stolen.status, stolen.text) == (401, FAILED)
        failed = event_of(server, stolen, "authentication_failed")
        assert failed["data"]["reason"] == "no_such_exchange"


def test_a_client_that_begins_anew_on_its_connection_is_heard(server, alice):
    """What it began before and left says nothing against its ticket."""
    with server.client().connect() as connection:
        for _ in range(2):
            assert token_of(leg(server, connection, alice.token(flags=THREE_LEGS)))
        assert subject_of(leg(server, connection, alice.token())).startswith("CN=alice@")


def test_a_bad_certificate_does_not_end_an_exchange(server, alice):
    """The chapter, Authentication Precedence: any method that succeeds; RULES C3."""
    foreign = server.deployment.authority().issue_client("holder", not_after=yesterday())
    client = alice.client(flags=THREE_LEGS)
    with server.client(foreign).connect() as connection:
        first = leg(server, connection, alice.step(client))
        second = leg(server, connection, alice.step(client, token_of(first)))
        assert subject_of(second).startswith("CN=alice@")


def yesterday():
    return datetime.now(UTC) - timedelta(days=1)


def test_two_hundred_half_finished_exchanges_end_the_oldest(server, alice):
    """Nobody needs a ticket to begin one; so a server keeps a bounded number of them, whatever they cost."""
    oldest = alice.client(flags=THREE_LEGS)
    with server.client().connect() as connection:
        first = leg(server, connection, alice.step(oldest))
        answers = [enrol(server, OFFER) for _ in range(200)]
        assert {answer.status for answer in answers} == {401}
        late = leg(server, connection, alice.step(oldest, token_of(first)))
        assert (late.status, late.text) == (401, FAILED)
        failed = event_of(server, late, "authentication_failed")
        assert failed["data"]["reason"] == "no_such_exchange"
    assert event_of(server, answers[0], "request_rejected")["data"]["reason"] == "continuation"
    newest = alice.client(flags=THREE_LEGS)
    with server.client().connect() as connection:
        first = leg(server, connection, alice.step(newest))
        assert leg(server, connection, alice.step(newest, token_of(first))).status == 200


# --- channel bindings


def own_binding(server):
    """What a client makes of the certificate that it sees (RFC 5929, 4.1)."""
    certificate = x509.load_pem_x509_certificates(
        (server.deployment.directory / server.deployment.settings["tls"]["cert"]).read_bytes()
    )[0]
    return b"tls-server-end-point:" + certificate.fingerprint(certificate.signature_hash_algorithm)


def test_a_channel_binding_is_checked_where_it_is_sent(server, alice):
    assert enrol(server, alice.token(bindings=own_binding(server))).status == 200
    answer = enrol(server, alice.token(bindings=b"tls-server-end-point:" + bytes(32)))
    assert (answer.status, answer.text) == (401, FAILED)
    failed = event_of(server, answer, "authentication_failed")
    assert failed["data"]["reason"] == "wrong_channel_binding"


def test_a_channel_binding_can_be_required(strict_server, realm):
    bob = realm.kdc.kinit("bob")
    assert enrol(strict_server, bob.token(bindings=own_binding(strict_server))).status == 200
    answer = enrol(strict_server, bob.token())
    assert (answer.status, answer.text) == (401, FAILED)
    failed = event_of(strict_server, answer, "authentication_failed")
    assert failed["data"]["reason"] == "channel_binding_missing"


# --- alternative names


def test_the_names_of_a_principal_are_issued_where_the_profile_says_so(strict_server, realm):
    def names(principal):
        answer = enrol(strict_server, realm.kdc.kinit(principal).token(bindings=own_binding(strict_server)))
        assert answer.status == 200, answer.text
        recorded = event_of(strict_server, answer, "certificate_issued")["data"]["names"]
        if principal == "bob":
            assert "otherName:1.3.6.1.4.1.311.20.2.3=bob@EXAMPLE.COM" in recorded
        return answer.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value

    bob = names("bob")
    assert {name.type_id for name in bob} == {UPN, KRB5_PRINCIPAL_NAME}
    assert b"\x0c\x0fbob@EXAMPLE.COM" in {name.value for name in bob}
    assert names(HOST).get_values_for_type(x509.DNSName) == ["web.example.com"]
    assert names(MACHINE).get_values_for_type(x509.DNSName) == ["ws42.example.com"]


def test_the_names_of_a_principal_may_be_asked_for_and_no_others(server, realm):
    """RULES F1."""
    host = realm.kdc.kinit(HOST)
    asked = make_csr(dns=["web.example.com"])
    assert server.client().enroll(asked, authorization=negotiate(host.token())).status == 200
    other = make_csr(dns=["dc.example.com"])
    refused = server.client().enroll(other, authorization=negotiate(host.token()))
    assert (refused.status, "dc.example.com" in refused.text) == (403, True)


# --- when the server itself is not well


def test_a_keytab_that_is_gone_is_the_servers_trouble(strict_server, realm):
    """RULES C3: away is 503, and nobody's ticket is at fault."""
    keytab = Path(str(strict_server.deployment.settings["gssapi"]["keytab"]))
    bob, binding = realm.kdc.kinit("bob"), own_binding(strict_server)
    keys = keytab.read_bytes()
    keytab.unlink()
    answer = enrol(strict_server, bob.token(bindings=binding))
    assert answer.status == 503
    assert answer.header("Retry-After")
    keytab.write_bytes(keys)
    assert enrol(strict_server, bob.token(bindings=binding)).status == 200


def test_whoever_brings_no_ticket_does_not_wait_for_the_library(deploy, realm, alice):
    """Its calls block: here on a keytab that is a pipe, from which nothing comes until the test lets go of it."""
    deployment = deploy(gssapi={"keytab": "own.keytab"}, server={"workers": 1})
    keytab, keys = deployment.directory / "own.keytab", realm.keytab.read_bytes()
    keytab.write_bytes(keys)
    with deployment.serve() as server, ThreadPoolExecutor() as threads:
        token = server.make_token("device")
        keytab.unlink()
        os.mkfifo(keytab)
        stuck = threads.submit(enrol, server, alice.token())
        pipe = wait_until(lambda: opened_for_writing(keytab), what="a reader of the keytab")
        try:
            assert server.client().cacerts().status == 200
            assert subject_of(server.client().enroll(make_csr(), token=token.value)) == "CN=device"
            assert not stuck.done()
        finally:
            keytab.unlink()
            keytab.write_bytes(keys)
            os.close(pipe)
        assert stuck.result().status in {200, 503}
        assert enrol(server, alice.token()).status == 200


def opened_for_writing(pipe):
    """A descriptor, once somebody reads at the other end."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


def test_no_token_is_in_the_log_or_the_database(server, alice):
    """DESIGN, guarantee 8."""
    token = alice.token()
    assert enrol(server, token).status == 200
    assert enrol(server, token).status == 401
    secret = base64.b64encode(token)[200:260]
    traces = server.stderr.encode() + server.stdout.encode() + server.deployment.audit_file.read_bytes()
    for file in server.deployment.database.parent.glob(f"{server.deployment.database.name}*"):
        traces += file.read_bytes()
    assert secret not in traces
