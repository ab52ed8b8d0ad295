"""Whole servers over a true directory: people enrol with curl, wrong passwords tell nothing, the directory comes and goes."""

from __future__ import annotations

import subprocess

import pytest
from cryptography import x509

from kipuka.testing.client import basic
from kipuka.testing.pki import make_csr

from .slapd import GROUP, PASSWORD

pytestmark = [pytest.mark.server, pytest.mark.interop]

INVALID = "invalid user name or password"


@pytest.fixture(name="server", scope="module")
def _server(slapd, serve):
    """People first, then tokens, at the path without a label; people alone at `/people`, tokens alone at `/devices`."""
    return serve(
        {
            "auth": {"order": ["mtls", "ldap", "otp"]},
            "ldap": slapd.section(
                require_group=GROUP,
                subject="CN={cn},O=Example",
                email_attribute="mail",
                servers=[slapd.encrypted, slapd.plain],
            ),
            "est": {"label": [{"name": "people", "auth": ["ldap"]}, {"name": "devices", "auth": ["otp"]}]},
        }
    )


def ask(server, user, password=PASSWORD, **more):
    return server.client().enroll(
        make_csr(common_name="whatever"), authorization=basic(password, user), **{"label": "people", **more}
    )


def failures(server, answer):
    """What the audit log says of the request, in order."""
    identifier = answer.header("X-Request-Id")
    mark = server.make_token("a-mark")
    server.wait_for_audit("otp_created", token=mark.id)
    return [
        (record["data"]["method"], record["data"]["reason"])
        for record in server.audit("authentication_failed")
        if record["request_id"] == identifier
    ]


def test_curl_enrols_with_name_and_password(server, tmp_path):
    (tmp_path / "trust.pem").write_bytes(server.deployment.trust)
    (tmp_path / "request.csr").write_bytes(make_csr(common_name="whatever").pem)
    done = subprocess.run(
        [
            *("curl", "--silent", "--show-error", "--fail-with-body", "--user", f"alice:{PASSWORD}"),
            *("--cacert", "trust.pem", "-H", "Content-Type: application/pkcs10", "--data-binary", "@request.csr"),
            *("-o", "answer", f"https://localhost:{server.port}/.well-known/est/simpleenroll"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    subprocess.run("openssl base64 -d -in answer -out answer.p7", cwd=tmp_path, shell=True, check=True)
    shown = subprocess.run(
        "openssl pkcs7 -inform DER -in answer.p7 -print_certs | openssl x509 -noout -subject -nameopt RFC2253",
        cwd=tmp_path,
        shell=True,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert shown == "subject=CN=Alice Adams,O=Example\n"


def test_a_mail_address_of_the_entry_is_granted_and_no_other(server):
    own = make_csr(email=["alice@example.com"])
    granted = server.client().enroll(own, authorization=basic(PASSWORD, "alice"), label="people")
    assert granted.status == 200, granted.text
    names = granted.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.RFC822Name) == ["alice@example.com"]
    other = make_csr(email=["bob@example.com"])
    assert server.client().enroll(other, authorization=basic(PASSWORD, "alice"), label="people").status == 403


def test_nobody_learns_which_names_there_are(server):
    answers = [ask(server, "alice", "wrong"), ask(server, "nobody", "wrong"), ask(server, "locked"), ask(server, "*")]
    assert {(answer.status, answer.text) for answer in answers} == {(401, INVALID)}
    shown = [
        [field for field in answer.headers if field[0].lower() not in ("date", "x-request-id")] for answer in answers
    ]
    assert all(one == shown[0] for one in shown)
    assert [failures(server, answer) for answer in answers] == [
        [("ldap", "wrong_password")],
        [("ldap", "unknown_user")],
        [("ldap", "account_locked")],
        [("ldap", "unknown_user")],
    ]


def test_who_is_not_in_the_group_is_told_with_a_403(server):
    answer = ask(server, "jürgen")
    assert (answer.status, answer.text) == (403, "this account may not enrol here")
    assert failures(server, answer) == [("ldap", "not_in_group")]
    assert answer.all("WWW-Authenticate") == []


def test_a_name_with_invisible_characters_is_shown_in_the_audit_log(server):
    answer = ask(server, "al\u202eice", "wrong")
    assert failures(server, answer) == [("ldap", "unknown_user")]
    raw = server.deployment.audit_file.read_text(encoding="utf-8")
    assert "\u202e" not in raw
    (name,) = [
        record["data"]["subject_name"]
        for record in server.audit("authentication_failed")
        if record["request_id"] == answer.header("X-Request-Id")
    ]
    assert name == "al\\E2\\80\\AEice"


def test_passwords_are_nowhere(server):
    """Neither right nor wrong ones, nor the server's own, in what it writes."""
    for user, password in (("alice", PASSWORD), ("alice", "a-wrong-password"), ("nobody", "a-wrong-password")):
        ask(server, user, password)
    server.make_token("a-mark")
    written = server.stdout + server.stderr + server.deployment.audit_file.read_text(encoding="utf-8")
    written += server.deployment.database.read_bytes().decode("latin-1")
    for secret in (PASSWORD, "a-wrong-password", "the-servers-own-secret", basic(PASSWORD, "alice").split()[1]):
        assert secret not in written


# -- beside one-time passwords, which read the same field -----------------------------------------------------------------


def test_a_label_with_one_of_them_asks_for_that_one_alone(server):
    token = server.make_token("device-7", label="devices")
    assert ask(server, "anybody", token.value, label="devices").status == 200
    assert failures(server, ask(server, "alice", "wrong")) == [("ldap", "wrong_password")]
    assert failures(server, ask(server, "alice", label="devices")) == [("otp", "unknown_token")]
    challenges = {
        label: ask(server, "alice", "x", label=label).all("WWW-Authenticate") for label in ("people", "devices")
    }
    assert challenges == {
        "people": ['Basic realm="kipuka directory", charset="UTF-8"'],
        "devices": ['Basic realm="kipuka", charset="UTF-8"'],
    }


def test_with_both_on_and_people_first_a_token_is_shown_to_the_directory_and_then_taken(server):
    """RULES C: precedence is `[auth] order`. The token wins, and the directory has counted a failure."""
    token = server.make_token("device-8")
    answer = ask(server, "alice", token.value, label=None)
    assert (answer.status, answer.certificate.subject.rfc4514_string()) == (200, "CN=device-8")
    assert failures(server, answer) == [("ldap", "wrong_password")]
    good = ask(server, "alice", label=None)
    assert (good.status, failures(server, good)) == (200, [])
    wrong = ask(server, "alice", "neither", label=None)
    assert (wrong.status, wrong.text) == (401, INVALID)
    assert failures(server, wrong) == [("ldap", "wrong_password"), ("otp", "unknown_token")]
    assert len(wrong.all("WWW-Authenticate")) == 2


def test_with_both_on_and_tokens_first_a_password_counts_as_a_wrong_token(slapd, serve):
    """The password wins, but addresses of people are locked out of one-time passwords; a locked one still signs in with a password."""
    server = serve(
        {
            "auth": {"order": ["mtls", "otp", "ldap"]},
            "ldap": slapd.section(),
            "otp": {"max_failures": 2, "hash_algorithm": "sha256-hmac"},
        }
    )
    token = server.make_token("device-9")
    for _ in range(4):
        assert ask(server, "alice", label=None).status == 200
    answer = ask(server, "alice", label=None)
    assert (answer.status, failures(server, answer)) == (200, [("otp", "locked_out")])
    locked = ask(server, "", token.value, label=None)
    assert (locked.status, locked.text) == (429, "too many failures, locked out")


# -- the directory goes and comes back; the configuration changes ---------------------------------------------------------


def test_a_directory_that_is_down_is_a_503_until_it_is_back(server, slapd):
    assert ask(server, "alice").status == 200
    slapd.stop()
    try:
        away = ask(server, "alice")
        assert (away.status, away.text) == (503, "the directory is not available at the moment")
        assert int(away.header("Retry-After")) > 0
        assert failures(server, away) == [("ldap", "directory_server_down")]
        (told,) = [
            record["data"]["explanation"]
            for record in server.audit("authentication_failed")
            if record["request_id"] == away.header("X-Request-Id")
        ]
        assert slapd.encrypted in told
        assert slapd.plain in told  # both were tried
    finally:
        slapd.start()
    assert ask(server, "alice").status == 200


def test_a_reload_takes_another_subject_and_lock_outs_hold(slapd, serve):
    server = serve({"auth": {"order": ["mtls", "otp", "ldap"]}, "ldap": slapd.section()})
    assert ask(server, "alice", label=None).certificate.subject.rfc4514_string() == "CN=alice"
    after = server.last_sequence
    server.deployment.configure({"ldap": {"subject": "CN={user},O=Reloaded", "max_failures": 2}})
    server.reload()
    server.wait_for_audit("configuration_loaded", after=after)
    assert ask(server, "alice", label=None).certificate.subject.rfc4514_string() == "CN=alice,O=Reloaded"
    statuses = [ask(server, "alice", "wrong", label=None).status for _ in range(3)]
    assert statuses == [401, 401, 429]
    locked = ask(server, "alice", label=None)
    assert (locked.status, locked.text) == (429, "too many failures, locked out")


# -- what is said at the start --------------------------------------------------------------------------------------------


def test_what_is_missing_is_told_at_once_and_what_is_weak_is_warned_of(slapd, deploy):
    """RULES K4, K6."""
    deployment = deploy({"ldap": slapd.section(bind_password="file:absent.txt")})
    said = deployment.kipuka("check", expect=3).stdout
    assert "auth.order" in said
    assert "ldap.bind_password" in said
    plain = slapd.section(servers=[slapd.plain], allow_plaintext=True)
    deployment.configure({"auth": {"order": ["mtls", "otp", "ldap"]}, "ldap": plain})
    said = deployment.kipuka("check").stdout
    assert "ldap.allow_plaintext" in said
    assert "ldap.require_group" in said
