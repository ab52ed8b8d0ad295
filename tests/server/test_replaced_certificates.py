"""What becomes of a certificate that a renewal has replaced (`revoke_replaced_after`; RULES F2, B2)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from kipuka.testing.pki import Credential, make_csr

from .records import recorded, schedule

pytestmark = pytest.mark.server

WEEK = 7 * 86400


@pytest.fixture(scope="module")
def server(kipuka_servers):
    return kipuka_servers(
        {
            "est": {"label": [{"name": "kept", "profile": "kept"}]},
            "profile": [{"name": "default", "revoke_replaced_after": WEEK}, {"name": "kept"}],
        }
    )


def renew(server, device, *, same_key=False, label=None):
    csr = make_csr(device.subject, key=device.key if same_key else "p256")
    answer = server.client(device).reenroll(csr, label=label)
    assert answer.status == 200, answer.text
    return Credential(key=csr.key, der=answer.certificate.public_bytes(Encoding.DER))


@pytest.mark.parametrize("same_key", [True, False], ids=["renewed", "re-keyed"])
def test_the_old_certificate_is_linked_scheduled_and_stays_good_meanwhile(server, same_key):
    """RFC 7030, 4.2.2: renewal and re-key; nothing is revoked at once."""
    old = server.enrol(f"scheduled-{same_key}")
    new = renew(server, old, same_key=same_key)
    before, after = recorded(server.deployment, old), recorded(server.deployment, new)
    assert after.replaces == before.fingerprint
    assert before.revoke_at == after.issued_at + timedelta(seconds=WEEK)
    assert (before.state, after.revoke_at) == ("valid", None)
    assert server.client(old).enroll(make_csr(old.subject)).status == 200


def test_where_the_profile_says_nothing_it_is_linked_and_nothing_more(server):
    old = server.enrol("kept", label="kept")
    new = renew(server, old, label="kept")
    assert recorded(server.deployment, new).replaces == recorded(server.deployment, old).fingerprint
    assert recorded(server.deployment, old).revoke_at is None


def test_an_enrolment_replaces_nothing(server):
    """Only a renewal does, whoever enrols with a certificate."""
    device = server.enrol("enrols-again")
    answer = server.client(device).enroll(make_csr(device.subject))
    again = Credential(key=device.key, der=answer.certificate.public_bytes(Encoding.DER))
    assert recorded(server.deployment, again).replaces is None
    assert recorded(server.deployment, device).revoke_at is None


def test_when_it_is_due_the_server_revokes_it_also_after_a_restart(server):
    """Audited with the reason superseded; the old certificate is refused from then on, the new one is good."""
    old = server.enrol("due")
    new = renew(server, old, same_key=True)
    server.stop()
    schedule(server.deployment, old, datetime.now(UTC) - timedelta(seconds=1))
    server.start()
    fingerprint = recorded(server.deployment, old).fingerprint
    event = server.wait_for_audit("certificate_revoked", timeout=30, fingerprint=fingerprint)
    assert event["data"]["reason"] == "superseded"
    assert recorded(server.deployment, new).serial in event["data"]["comment"]
    refused = server.client(old).reenroll(make_csr(old.subject))
    assert (refused.status, refused.text) == (403, "client certificate revoked")
    assert renew(server, new, same_key=True)
