"""Revocation over real TLS: by whom, with what effect, and from when on (RULES B2, B3, E4, F5, K7)."""

from __future__ import annotations

import getpass
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from kipuka.testing.inprocess import InProcessServer
from kipuka.testing.pki import Credential, make_csr

pytestmark = pytest.mark.server

REVOKED = "client certificate revoked"


@pytest.fixture(scope="module")
def server(kipuka_servers):
    return kipuka_servers()


def revoke(server, wanted, **body):
    answer = server.admin("POST", f"/admin/certificates/{wanted}/revoke", body)
    return answer.status, json.loads(answer.body)


def fingerprint(device):
    return device.certificate.fingerprint(SHA256()).hex()


def renewal(device):
    return make_csr(device.subject, key=device.key)


def test_a_revoked_certificate_is_refused_from_the_next_request_on_an_open_connection(server):
    """RULES B2, B3: with the text, for enrolment and re-enrolment alike."""
    device = server.enrol("kept-alive")
    client = server.client(device)
    with client.connect() as connection:
        for path, send in (("enrol", client.enroll), ("renew", client.reenroll)):
            assert send(renewal(device), connection=connection).status == 200, path
        status, detail = revoke(server, fingerprint(device), reason="superseded")
        assert (status, detail["state"]) == (200, "revoked")
        enrolment = client.enroll(renewal(device), connection=connection)
        assert (enrolment.status, enrolment.text) == (401, REVOKED)
        renewed = client.reenroll(renewal(device), connection=connection)
        assert (renewed.status, renewed.text) == (403, REVOKED)
    again = server.client(device).reenroll(renewal(device))
    assert (again.status, again.text) == (403, REVOKED)


def test_a_token_still_enrols_on_the_connection_of_a_revoked_certificate(server):
    """RULES A3: a certificate that is not good is a refused proof, and the next method may win."""
    device = server.enrol("second-chance")
    revoke(server, fingerprint(device), reason="cessationOfOperation")
    token = server.make_token("second-chance")
    assert server.client(device).enroll(make_csr(common_name="second-chance"), token=token.value).status == 200


def test_a_renewal_under_way_when_its_certificate_is_revoked_gets_nothing(kipuka_template, tmp_path):
    """RULES B2: the check is made again in the transaction that records."""
    deployment = kipuka_template.copy(tmp_path / "kipuka")
    with InProcessServer(deployment) as server, ThreadPoolExecutor() as threads:
        made = deployment.kipuka("otp", "create", "--client-id", "racing", "--json")
        csr = make_csr(common_name="racing")
        issued = server.client().enroll(csr, token=json.loads(made.stdout)["token"]).certificate
        device = Credential(key=csr.key, der=issued.public_bytes(Encoding.DER))
        gate = server.stop_at("record")
        answer = threads.submit(server.client(device).reenroll, renewal(device))
        gate.wait()
        deployment.kipuka("cert", "revoke", fingerprint(device))
        gate.open()
        assert (answer.result().status, answer.result().text) == (403, REVOKED)
        listed = json.loads(deployment.kipuka("cert", "list", "--subject", "racing", "--json").stdout)
        assert [row["state"] for row in listed] == ["revoked"]


def test_a_compromised_key_is_refused_everywhere_another_reason_leaves_it_alone(server):
    """RULES F5."""
    for reason, status in (("keyCompromise", 400), ("superseded", 200)):
        device = server.enrol(f"key-{reason}")
        revoke(server, fingerprint(device), reason=reason)
        token = server.make_token(f"key-{reason}")
        answer = server.client().enroll(renewal(device), token=token.value)
        assert answer.status == status, answer.text
        assert server.view_token(token)["used"] == (status == 200)


def test_a_hold_suspends_and_can_be_lifted(server):
    """RFC 5280, 5.3.1: certificateHold and removeFromCRL."""
    device = server.enrol("on-hold")
    assert revoke(server, fingerprint(device), reason="certificateHold")[1]["state"] == "revoked"
    assert server.client(device).reenroll(renewal(device)).text == REVOKED
    status, detail = revoke(server, fingerprint(device), reason="removeFromCRL")
    assert (status, detail["state"], detail["revocation_reason"], detail["revoked_at"]) == (200, "valid", None, None)
    assert server.client(device).reenroll(renewal(device)).status == 200
    assert server.wait_for_audit("certificate_hold_lifted", fingerprint=fingerprint(device))


def test_the_record_says_state_reason_and_time_and_the_audit_log_who(server):
    device = server.enrol("recorded")
    status, detail = revoke(
        server,
        fingerprint(device),
        reason="keyCompromise",
        invalidity_date="2020-01-31T13:00:00+01:00",
        comment="stolen at the fair",
    )
    assert status == 200
    assert (detail["revocation_reason"], detail["ca_untold"]) == ("keyCompromise", None)
    assert detail["invalidity_date"] == "2020-01-31T12:00:00.000000Z"
    listed = json.loads(server.admin("GET", "/admin/certificates?state=revoked&subject=recorded").body)["certificates"]
    (row,) = [row for row in listed if row["id"] == fingerprint(device)]
    assert (row["state"], row["revocation_reason"]) == ("revoked", "keyCompromise")
    assert row["revoked_at"] == detail["revoked_at"]
    event = server.wait_for_audit("certificate_revoked", fingerprint=fingerprint(device))
    assert event["identity"].startswith("admin:bearer:")
    assert event["request_id"]
    assert event["data"] == {
        "ca": detail["ca"],
        "serial": detail["serial"],
        "fingerprint": fingerprint(device),
        "subject": "CN=recorded",
        "reason": "keyCompromise",
        "previous_reason": None,
        "invalidity_date": "2020-01-31T12:00:00.000000Z",
        "comment": "stolen at the fair",
    }


def test_a_certificate_is_named_by_fingerprint_by_ca_and_serial_or_by_serial(server):
    """RULES E4: the slash stands in the path as it is."""
    for form in ("{fingerprint}", "{ca}/{serial}", "{ca}%2F{serial}", "{serial}"):
        device = server.enrol("addressed")
        row = server.recorded(device.certificate)
        name = form.format(fingerprint=row["id"], ca=row["ca"], serial=row["serial"].upper())
        status, detail = revoke(server, name)
        assert (status, detail["id"], detail["revocation_reason"]) == (200, row["id"], "unspecified"), form


def test_what_cannot_be_done_is_told_in_one_sentence(server):
    device = server.enrol("refusals")
    name = fingerprint(device)
    for wanted, body, status, error in (
        ("ff" * 32, {}, 404, "unknown_resource"),
        ("no-such-ca/1", {}, 404, "unknown_resource"),
        (name, {"reason": "removeFromCRL"}, 409, "not_on_hold"),
        (name, {"reason": "boredom"}, 400, "invalid_fields"),
        (name, {"reason": 1}, 400, "invalid_fields"),
        (name, {"invalidity_date": "2020-01-31T12:00:00"}, 400, "invalid_fields"),
        (name, {"invalidity_date": "2999-01-31T12:00:00Z"}, 400, "invalid_fields"),
        (name, {"comment": "a\u0007b"}, 400, "invalid_fields"),
        (name, {"colour": "red"}, 400, "invalid_fields"),
        (name, None, 415, "unsupported_media_type"),
    ):
        answer = server.admin("POST", f"/admin/certificates/{wanted}/revoke", body)
        refusal = json.loads(answer.body)
        assert (answer.status, refusal["error"]) == (status, error), refusal
        assert refusal["detail"]
    assert server.recorded(device.certificate)["state"] == "valid"
    assert revoke(server, name, reason="superseded")[0] == 200
    first = server.recorded(device.certificate)
    assert revoke(server, name, reason="superseded") == (200, first)
    status, refusal = revoke(server, name, reason="affiliationChanged")
    assert (status, refusal["error"]) == (409, "already_revoked")
    assert "superseded" in refusal["detail"]
    status, stronger = revoke(server, name, reason="keyCompromise")
    assert (status, stronger["revoked_at"]) == (200, first["revoked_at"])


def test_only_an_administrator_revokes(server):
    device = server.enrol("self-service")
    path = f"/admin/certificates/{fingerprint(device)}/revoke"
    for client in (server.client(), server.client(device)):
        answer = client.request("POST", path, headers={"Content-Type": "application/json"}, body=b"{}")
        assert answer.status == 401
    assert server.recorded(device.certificate)["state"] == "valid"


def test_the_command_revokes_beside_the_running_server(server):
    """RULES K7: in force for the server's next request, and audited as the account that ran it."""
    device = server.enrol("by-command")
    client = server.client(device)
    row = server.recorded(device.certificate)
    name = f"{row['ca']}/{row['serial']}"
    with client.connect() as connection:
        assert client.reenroll(renewal(device), connection=connection).status == 200
        words = ["--reason", "keycompromise", "--invalidity-date", "2020-01-31T12:00:00Z", "--comment", "stolen"]
        done = server.deployment.kipuka("cert", "revoke", name, *words, "--json")
        assert json.loads(done.stdout)["revocation_reason"] == "keyCompromise"
        assert client.reenroll(renewal(device), connection=connection).text == REVOKED
    event = server.wait_for_audit("certificate_revoked", fingerprint=row["id"])
    assert event["identity"] == f"cli:{getpass.getuser()}"
    assert "before" in server.deployment.kipuka("cert", "revoke", name, "--reason", "keyCompromise").stderr
    assert "is final" in server.deployment.kipuka("cert", "revoke", name, expect=1).stderr
    assert "no such certificate" in server.deployment.kipuka("cert", "revoke", "ff" * 32, expect=1).stderr
    assert (
        "time zone"
        in server.deployment.kipuka("cert", "revoke", name, "--invalidity-date", "2020-01-31T12:00:00", expect=2).stderr
    )
    listed = json.loads(server.deployment.kipuka("cert", "list", "--state", "revoked", "--json").stdout)
    assert row["id"] in {item["fingerprint"] for item in listed}


def test_revocations_and_renewals_that_race_leave_one_truth(server):
    """Twenty at once revoke one certificate while it renews: one event, one time, and after the first answer to a revocation no
    renewal that is asked for then is granted."""
    device = server.enrol("raced")
    name = fingerprint(device)
    before = server.last_sequence

    def withdraw(_number):
        status, detail = revoke(server, name, reason="keyCompromise")
        after = server.client(device).reenroll(make_csr(device.subject))
        return status, detail["revoked_at"], after.status

    def renew(_number):
        return server.client(device).reenroll(make_csr(device.subject)).status

    with ThreadPoolExecutor(max_workers=12) as threads:
        renewals = threads.map(renew, range(20))
        withdrawals = list(threads.map(withdraw, range(20)))
        assert set(renewals) <= {200, 403}
    assert {status for status, _, _ in withdrawals} == {200}
    assert len({when for _, when, _ in withdrawals}) == 1
    assert {after for _, _, after in withdrawals} == {403}
    server.wait_for_audit("certificate_revoked", after=before, fingerprint=name)
    events = [event for event in server.audit() if event["sequence"] > before]
    (revoked,) = [event["sequence"] for event in events if event["event"] == "certificate_revoked"]
    issued = [event["sequence"] for event in events if event["event"] == "certificate_issued"]
    assert all(sequence < revoked for sequence in issued)
    assert "intact" in server.deployment.kipuka("audit", "verify").stdout
