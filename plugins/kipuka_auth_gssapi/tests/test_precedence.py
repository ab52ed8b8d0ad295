"""Certificates, tickets and one-time passwords together: who wins, what is heard, what is audited (RULES A3, C3)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from kipuka.testing.pki import make_csr

from .kdc import REALM, negotiate

pytestmark = [pytest.mark.kerberos, pytest.mark.server]

EXPIRED = "client certificate expired"
FAILED = "GSSAPI authentication failed"
INVALID = "invalid OTP token"

CASES = [
    # certificate, Authorization: the winner, or the text that is heard; the methods that denied
    ("good", "none", "mtls", []),
    ("good", "good ticket", "mtls", []),
    ("good", "bad ticket", "mtls", []),
    ("good", "good token", "mtls", []),
    ("good", "bad token", "mtls", []),
    ("bad", "none", EXPIRED, ["mtls"]),
    ("bad", "good ticket", "gssapi", ["mtls"]),
    ("bad", "bad ticket", EXPIRED, ["mtls", "gssapi"]),
    ("bad", "good token", "otp", ["mtls"]),
    ("bad", "bad token", EXPIRED, ["mtls", "otp"]),
    ("absent", "none", "", []),
    ("absent", "good ticket", "gssapi", []),
    ("absent", "bad ticket", FAILED, ["gssapi"]),
    ("absent", "good token", "otp", []),
    ("absent", "bad token", INVALID, ["otp"]),
]
SUBJECTS = {
    "mtls": "CN=holder",
    "gssapi": f"CN=alice@{REALM},OU=Users,DC=example,DC=com",
    "otp": "CN=bearer-of-token",
}
REASONS = {"mtls": "expired", "gssapi": "unknown_service", "otp": "unknown_token"}


def certificate_of(server, kind):
    late = datetime.now(UTC) - timedelta(minutes=1)
    match kind:
        case "good":
            return server.deployment.authority().issue_client("holder")
        case "bad":
            return server.deployment.authority().issue_client("holder", not_after=late)
        case _:
            return None


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} certificate, {case[1]}")
def test_any_method_that_is_good_wins_and_the_first_denial_is_heard(server, alice, case):
    """The chapter, Authentication Precedence: mTLS, then GSSAPI, then OTP; RULES C3."""
    certificate, authorization, expected, denied = case
    token = server.make_token("bearer-of-token")
    presented = {
        "none": {},
        "good ticket": {"authorization": negotiate(alice.token())},
        "bad ticket": {"authorization": negotiate(alice.token(f"HTTP/other@{REALM}"))},
        "good token": {"token": token.value},
        "bad token": {"token": "x" * 20},
    }[authorization]
    answer = server.client(certificate_of(server, certificate)).enroll(make_csr(common_name="whatever"), **presented)
    if expected in SUBJECTS:
        assert answer.status == 200, answer.text
        assert answer.certificate.subject.rfc4514_string() == SUBJECTS[expected]
        assert len(answer.all("WWW-Authenticate")) == (expected == "gssapi")
    else:
        assert (answer.status, answer.text) == (401, expected)
        assert [challenge.split()[0] for challenge in answer.all("WWW-Authenticate")] == ["Basic", "Negotiate"]
    mark = server.make_token("a-mark")  # its event comes after all those of the request
    server.wait_for_audit("otp_created", token=mark.id)
    events = [record for record in server.audit() if record["request_id"] == answer.header("X-Request-Id")]
    failed = [event["data"] for event in events if event["event"] == "authentication_failed"]
    assert [event["method"] for event in failed] == denied
    assert [event["reason"] for event in failed] == [REASONS[method] for method in denied]
    won = [event["data"]["method"] for event in events if event["event"] == "authentication_succeeded"]
    assert won == ([expected] if expected in SUBJECTS else [])
    issued = [event["data"]["method"] for event in events if event["event"] == "certificate_issued"]
    assert issued == won
    assert server.view_token(token)["used"] == (expected == "otp")
