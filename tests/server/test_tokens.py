"""One-time tokens over the whole server: each option of `[otp]`, the admin API, lock-outs, and twenty at once (RULES C4, D)."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from kipuka.testing.client import basic
from kipuka.testing.pki import make_csr
from kipuka.testing.server import CommandFailed, ServerDied, wait_until

pytestmark = pytest.mark.server

INVALID = (401, "invalid OTP token")
LOCKED = (429, "too many failures, locked out")


def refused(answer):
    return (answer.status, answer.text)


@pytest.fixture(scope="module")
def server(kipuka_server):
    return kipuka_server


@pytest.fixture(scope="module")
def client(server):
    return server.client()


# -- the options of [otp] ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "otp",
    [
        pytest.param({"hash_algorithm": "argon2id", "token_length": 20}, id="argon2id"),
        pytest.param({"hash_algorithm": "bcrypt", "token_length": 72}, id="bcrypt at its limit"),
        pytest.param({"hash_algorithm": "sha256-hmac", "token_length": 16}, id="sha256-hmac and the shortest"),
    ],
)
def test_every_hash_and_length_works(kipuka_servers, otp):
    """The chapter, [otp] hash_algorithm and token_length; RULES D1: length counts characters of base62."""
    server = kipuka_servers({"otp": otp})
    token = server.make_token()
    assert len(token.value) == otp["token_length"]
    assert token.value.isascii()
    assert token.value.isalnum()
    client = server.client()
    assert refused(client.enroll(make_csr(), token=token.value[:-1] + "~")) == INVALID
    assert client.enroll(make_csr(), token=token.value).status == 200
    assert refused(client.enroll(make_csr(), token=token.value)) == INVALID
    server.stop()


def test_wrong_options_stop_the_start_and_are_named_all_at_once(kipuka_servers):
    """Configuration: every mistake with its key, cause and remedy, from `check` and from `serve` alike."""
    wrong = {
        "token_length": 15,
        "hash_algorithm": "md5",
        "max_uses": 0,
        "max_failures": 0,
        "failure_window": 0,
        "lockout_duration": -1,
        "surprise": 1,
    }
    server = kipuka_servers({"otp": wrong}, start=False)
    checked = server.deployment.kipuka("check", "-c", str(server.deployment.config_file), expect=None)
    assert checked.returncode != 0
    with pytest.raises(ServerDied) as died:
        server.start()
    for key in wrong:
        assert f"otp.{key}" in checked.stdout + checked.stderr
        assert f"otp.{key}" in str(died.value)


def test_the_default_number_of_uses_is_that_of_the_file(kipuka_servers):
    """The chapter, [otp] max_uses."""
    server = kipuka_servers({"otp": {"max_uses": 2}})
    token = server.make_token()
    statuses = [server.client().enroll(make_csr(), token=token.value).status for _ in range(3)]
    assert statuses == [200, 200, 401]


# -- the admin API -----------------------------------------------------------------------------------------------------


def test_a_new_token_is_answered_with_the_five_fields_exactly(server):
    """The chapter's JSON; RULES D2: 201, the id in Location."""
    until = (datetime.now(UTC) + timedelta(days=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    answer = server.admin("POST", "/admin/otp", {"client_id": "workstation-42", "max_uses": 1, "expires_at": until})
    assert answer.status == 201
    made = json.loads(answer.body)
    assert list(made) == ["token", "client_id", "created_at", "expires_at", "max_uses"]
    assert (made["client_id"], made["expires_at"], made["max_uses"]) == ("workstation-42", until, 1)
    assert datetime.fromisoformat(made["created_at"]).tzinfo is not None
    assert made["created_at"].endswith("Z")
    assert answer.header("Location").startswith("/admin/otp/")
    assert made["token"] not in answer.header("Location")
    assert answer.header("Content-Type") == "application/json"


def test_the_default_lifetime_is_a_day_and_the_longest_thirty(server):
    """RULES D2."""
    made = json.loads(server.admin("POST", "/admin/otp", {"client_id": "x"}).body)
    lifetime = datetime.fromisoformat(made["expires_at"]) - datetime.fromisoformat(made["created_at"])
    assert abs(lifetime - timedelta(hours=24)) < timedelta(seconds=2)
    for days, status in ((29, 201), (31, 400)):
        until = (datetime.now(UTC) + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
        assert server.admin("POST", "/admin/otp", {"client_id": "x", "expires_at": until}).status == status


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"client_id": ""},
        {"client_id": "x" * 65},
        {"client_id": "a\u0000b"},
        {"client_id": "a\nb"},
        {"client_id": 7},
        {"client_id": "x", "max_uses": 0},
        {"client_id": "x", "max_uses": "1"},
        {"client_id": "x", "max_uses": 1.5},
        {"client_id": "x", "expires_at": "2020-01-01T00:00:00Z"},
        {"client_id": "x", "expires_at": "tomorrow"},
        {"client_id": "x", "subject": "not a name"},
        {"client_id": "x", "san": ["DNS:bad_name\u0000"]},
        {"client_id": "x", "san": "DNS:a.example"},
        {"client_id": "x", "label": "a/b"},
    ],
    ids=json.dumps,
)
def test_a_bad_wish_is_a_400_that_names_the_field(server, body):
    """RULES D2: lengths and characters are checked when the token is made."""
    answer = server.admin("POST", "/admin/otp", body)
    assert answer.status == 400
    field = next((name for name in ("label", "san", "subject", "expires_at", "max_uses") if name in body), "client_id")
    assert field in json.loads(answer.body)["detail"]


def test_tokens_are_listed_and_shown_without_themselves(server):
    """The admin API lists, shows and revokes; a token is shown once."""
    token = server.make_token("listed-device")
    listed = server.admin("GET", "/admin/otp?client_id=listed-device")
    assert [entry["id"] for entry in json.loads(listed.body)["tokens"]] == [token.id]
    shown = server.admin("GET", f"/admin/otp/{token.id}")
    for answer in (listed, shown):
        assert answer.status == 200
        assert token.value not in answer.body.decode()
        assert "hash" not in answer.body.decode()
    assert json.loads(shown.body)["state"] == "active"


def test_a_revoked_token_is_refused(server, client):
    """DELETE /admin/otp/{id}."""
    token = server.make_token()
    assert server.admin("DELETE", f"/admin/otp/{token.id}").status == 204
    assert refused(client.enroll(make_csr(), token=token.value)) == INVALID
    assert server.view_token(token)["state"] == "revoked"


def short_lived(server, seconds, **more):
    """A token that expires at the beginning of the last of so many seconds."""
    until = (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return server.make_token(expires_at=until, **more)


def test_a_token_is_refused_when_it_has_expired(server, client):
    """RULES D2: past `expires_at`."""
    for seconds in (3, 10, 30):  # of a short life there may be nothing left on a busy machine
        token = short_lived(server, seconds, max_uses=2)
        first = client.enroll(make_csr(), token=token.value)
        if first.status == 200:
            break
    assert first.status == 200, first.text
    wait_until(lambda: server.view_token(token)["state"] == "expired")
    assert refused(client.enroll(make_csr(), token=token.value)) == INVALID


def test_commands_make_list_and_revoke_tokens_beside_the_server(server, client):
    """`kipuka otp create|list|revoke`; RULES K7: through the same chain, while the server runs."""
    made = server.deployment.kipuka("otp", "create", "--client-id", "from-the-shell", "--max-uses", "2")
    token = next(word for word in made.stdout.split() if len(word) == 20 and word.isalnum())
    assert client.enroll(make_csr(), token=token).status == 200
    listed = json.loads(server.admin("GET", "/admin/otp?client_id=from-the-shell").body)["tokens"]
    assert token not in server.deployment.kipuka("otp", "list").stdout
    server.deployment.kipuka("otp", "revoke", listed[0]["id"])
    assert refused(client.enroll(make_csr(), token=token)) == INVALID
    server.deployment.kipuka("audit", "verify")


# -- names and labels --------------------------------------------------------------------------------------------------


def test_the_certificate_has_the_tokens_name_whatever_the_csr_says(server, client):
    """DESIGN, whose names: `CN=<client_id>` replaces the CSR's subject."""
    token = server.make_token("workstation-42")
    issued = client.enroll(make_csr(common_name="domain-controller"), token=token.value).certificate
    assert issued.subject.rfc4514_string() == "CN=workstation-42"


@pytest.mark.parametrize(
    "client_id",
    [
        pytest.param("intruder,OU=Admins,O=Example", id="comma"),
        pytest.param("intruder+OU=Admins", id="plus"),
        pytest.param('"intruder",OU=Admins', id="quotes"),
        pytest.param("intruder\\,OU=Admins", id="backslash"),
        pytest.param("#0c05496e6a6563", id="hexadecimal"),
        pytest.param("CN=intruder;OU=Admins", id="semicolon"),
        pytest.param("intruder\\2COU=Admins", id="escaped octet"),
    ],
)
def test_a_client_id_is_one_value_of_one_name_whatever_is_in_it(server, client, client_id):
    """Guarantee 5: nothing in a client id begins another part of the certificate's subject."""
    token = server.make_token(client_id)
    issued = client.enroll(make_csr(), token=token.value).certificate
    assert [(part.oid, part.value) for part in issued.subject] == [(NameOID.COMMON_NAME, client_id)]
    assert server.recorded(issued) is not None


def test_a_token_may_carry_its_own_subject_and_names(server, client):
    """`subject` and `san` of POST /admin/otp."""
    token = server.make_token(
        "printer", subject="CN=printer,OU=Floor 3,O=Example", san=["DNS:printer.example"], max_uses=2
    )
    issued = client.enroll(make_csr(dns=("printer.example",)), token=token.value).certificate
    assert issued.subject.rfc4514_string() == "CN=printer,OU=Floor 3,O=Example"
    names = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName("printer.example")]
    assert refused(client.enroll(make_csr(dns=("other.example",)), token=token.value))[0] == 403


def test_the_user_name_is_ignored(server, client):
    """RULES D3."""
    for user in ("", "anybody", "workstation-42", "über"):
        token = server.make_token()
        assert client.enroll(make_csr(), authorization=basic(token.value, user)).status == 200


# -- twenty at once ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_uses", [1, 3])
def test_twenty_parallel_uses_give_exactly_that_many_certificates(server, max_uses):
    """Guarantee 2; RULES C4: who finds it held is told to come back (503), and nobody's failure is counted."""
    token = server.make_token("contended", max_uses=max_uses)
    requests = [make_csr(common_name=f"contended-{number}") for number in range(20)]
    client = server.client()
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda csr: client.enroll(csr, token=token.value), requests))
    issued = [answer.certificate for answer in answers if answer.status == 200]
    assert len(issued) == max_uses
    assert {answer.status for answer in answers} <= {200, 401, 503}
    for answer in answers:
        if answer.status == 503:
            assert answer.header("Retry-After") == "1"
    for certificate in issued:
        assert server.recorded(certificate) is not None
    view = server.view_token(token)
    assert (view["used"], view["held"], view["state"]) == (max_uses, 0, "spent")


# -- lock-outs ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strict(kipuka_servers):
    return kipuka_servers({"otp": {"max_failures": 3, "failure_window": 60, "lockout_duration": 10}})


def fail(client, times):
    return [refused(client.enroll(make_csr(), token=f"{number:020d}")) for number in range(times)]


def test_the_failure_that_exceeds_locks_and_says_so(strict):
    """RULES C4: with 3 allowed, the fourth is answered with 429 already; other addresses are untouched."""
    address = strict.client().calling_from("127.0.1.1")
    before = strict.last_sequence
    assert fail(address, 5) == [INVALID, INVALID, INVALID, LOCKED, LOCKED]
    locked = strict.wait_for_audit("locked_out", after=before)
    assert locked["data"]["address"] == "127.0.1.1"
    token = strict.make_token(max_uses=2)
    answer = address.enroll(make_csr(), token=token.value)
    assert refused(answer) == LOCKED
    assert 1 <= int(answer.header("Retry-After")) <= 10
    assert strict.client().enroll(make_csr(), token=token.value).status == 200
    wait_until(lambda: address.enroll(make_csr(), token=token.value).status == 200, what="the end of the lock-out")


def test_only_presented_wrong_secrets_count(strict):
    """RULES C4: no credential, an unreadable header, a malformed CSR and a refused name are no failures."""
    address = strict.client().calling_from("127.0.1.2")
    token = strict.make_token()
    for _ in range(6):
        assert address.enroll(make_csr()).status == 401
        assert address.enroll(b"garbage", token=token.value).status == 400
        assert address.enroll(make_csr(dns=("dc.example",)), token=token.value).status == 403
        assert address.enroll(make_csr(), authorization="Basic %%%").status == 401
    assert address.enroll(make_csr(), token=token.value).status == 200


@pytest.mark.parametrize("kind", ["spent", "expired", "revoked"])
def test_a_token_that_is_no_longer_good_counts(strict, kind):
    """RULES C4: spent, expired or revoked, it was presented and is not good."""
    address = strict.client().calling_from({"spent": "127.0.1.3", "expired": "127.0.1.4", "revoked": "127.0.1.5"}[kind])
    if kind == "expired":
        try:
            token = short_lived(strict, 1)
        except CommandFailed:  # the second has turned in between
            token = short_lived(strict, 5)
        wait_until(lambda: strict.view_token(token)["state"] == "expired")
    else:
        token = strict.make_token()
        if kind == "spent":
            assert address.enroll(make_csr(), token=token.value).status == 200
        else:
            strict.admin("DELETE", f"/admin/otp/{token.id}")
    answers = [refused(address.enroll(make_csr(), token=token.value)) for _ in range(4)]
    assert answers == [INVALID, INVALID, INVALID, LOCKED]


def test_a_lock_stops_tokens_only(strict):
    """RULES C4: a client certificate from the same address is served."""
    address = strict.client().calling_from("127.0.1.6")
    assert fail(address, 4)[-1] == LOCKED
    device = strict.deployment.authority().issue_client("locked-neighbour")
    assert address.with_certificate(device).enroll(make_csr(key=device.key)).status == 200
    assert address.cacerts().status == 200


def test_a_lock_is_seen_and_released_by_an_admin(strict):
    """RULES C4; `GET /admin/lockouts`, `DELETE /admin/lockouts/{id}`; audited."""
    address = strict.client().calling_from("127.0.1.7")
    assert fail(address, 4)[-1] == LOCKED
    before = strict.last_sequence
    listed = strict.admin("GET", "/admin/lockouts")
    assert listed.status == 200
    (entry,) = [one for one in json.loads(listed.body)["lockouts"] if one["address"] == "127.0.1.7"]
    assert entry["counter"] == "otp"
    assert strict.admin("DELETE", f"/admin/lockouts/{entry['id']}").status == 204
    strict.wait_for_audit("lockout_released", after=before, address="127.0.1.7")
    token = strict.make_token()
    assert address.enroll(make_csr(), token=token.value).status == 200


def test_a_lock_survives_a_restart(kipuka_servers):
    """RULES C4: counted in the store."""
    server = kipuka_servers({"otp": {"max_failures": 1, "failure_window": 60, "lockout_duration": 60}})
    address = server.client().calling_from("127.0.1.8")
    assert fail(address, 2)[-1] == LOCKED
    server.restart()
    assert refused(address.enroll(make_csr(), token=server.make_token().value)) == LOCKED


def test_as_shipped_five_failures_are_allowed(kipuka_servers):
    """The chapter, [otp] max_failures = 5, lockout_duration = 900."""
    server = kipuka_servers(as_shipped=True)
    answers = fail(server.client(), 6)
    assert answers == [INVALID] * 5 + [LOCKED]
    last = server.client().enroll(make_csr(), token="t" * 20)
    assert 880 <= int(last.header("Retry-After")) <= 900


def test_wrong_bearer_tokens_have_a_count_of_their_own(strict):
    """RULES E3: failures of admins are counted and locked like those of tokens, apart from them."""
    address = strict.client().calling_from("127.0.1.9")
    statuses = [
        address.request("GET", "/admin/otp", headers={"Authorization": f"Bearer wrong{number}"}).status
        for number in range(6)
    ]
    assert statuses == [401] * 5 + [429]
    right = {"Authorization": f"Bearer {strict.deployment.admin_token}"}
    assert address.request("GET", "/admin/otp", headers=right).status == 429
    assert address.enroll(make_csr(), token=strict.make_token().value).status == 200
