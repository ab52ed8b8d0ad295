"""A stranger's distribution, really installed by pip: found, ordered by the file, used for an enrolment, and diagnosed
where it is broken (DESIGN, the plugin contract; RULES K1 to K4, F6)."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest
from cryptography import x509

from kipuka.testing.pki import make_csr, make_root
from kipuka.testing.server import ServerDied, wait_until

pytestmark = [pytest.mark.server]

SECRET = "the stranger's secret"


@pytest.fixture(scope="module")
def stranger(site):
    return site("badge_and_smithy")


@pytest.fixture(scope="module")
def broken(site):
    return site("badge_and_smithy", "broken")


def badge(name, secret=SECRET):
    return f"Badge {name}:{hmac.new(secret.encode(), name.encode(), hashlib.sha256).hexdigest()}"


def settings(**changes):
    """A configuration that uses all three of the stranger's kinds; in one process, since the CA's key is in memory."""
    return {
        "server": {"workers": 1},
        "auth": {"order": ["mtls", "badge", "otp"]},
        "badge": {"secret": SECRET},
        "ca": [{"id": "forge", "backend": "smithy"}],
        "est": {"default_ca": "forge"},
        "audit": {
            "sink": [{"type": "file", "path": "audit.jsonl"}, {"type": "ledger", "book": "ledger.txt"}],
        },
        **changes,
    }


@pytest.fixture(scope="module")
def server(kipuka_servers, stranger):
    return kipuka_servers(settings(), environ=stranger)


# -- found and used ----------------------------------------------------------------------------------------------------


def test_it_is_listed_with_distribution_and_version(server):
    """`kipuka plugins`: what is installed, what is used, and what each brings; unused is listed, not imported."""
    rows = {row["name"]: row for row in json.loads(server.deployment.kipuka("plugins", "--json").stdout)}
    for name, kinds in (("badge", ["authenticator"]), ("smithy", ["ca backend"]), ("ledger", ["audit sink"])):
        row = rows[name]
        assert (row["distribution"], row["version"]) == ("stranger-badge-and-smithy", "3.1")
        assert (row["state"], row["kinds"]) == ("used", kinds)
    assert (rows["faraway"]["state"], rows["faraway"]["kinds"]) == ("unused", [])


def test_it_identifies_signs_and_records(server):
    """An enrolment from end to end in which every plugin is the stranger's."""
    before = server.last_sequence
    answer = server.client().enroll(make_csr(common_name="whatever"), authorization=badge("visitor"))
    assert answer.status == 200, answer.text
    certificate = answer.certificate
    assert certificate.subject.rfc4514_string() == "CN=visitor"
    assert certificate.issuer.rfc4514_string() == "CN=Smithy Root"
    assert server.client().cacerts().certificates()[0].subject == certificate.issuer
    issued = server.wait_for_audit("certificate_issued", after=before)
    assert (issued["data"]["method"], issued["data"]["ca"]) == ("badge", "forge")
    assert issued["identity"] == "badge:visitor"
    ledger = server.deployment.directory / "ledger.txt"
    line = f"{issued['node']} {issued['sequence']} certificate_issued success"
    wait_until(lambda: line in ledger.read_text().splitlines(), what="the line in the ledger")


def test_its_challenge_is_offered_after_basic(server):
    """RULES C3: every applicable challenge, Basic first."""
    answer = server.client().enroll(make_csr())
    assert (answer.status, answer.body) == (401, b"")
    assert answer.all("WWW-Authenticate") == ['Basic realm="kipuka", charset="UTF-8"', 'Badge realm="stranger"']


def test_its_denial_is_heard_and_the_next_method_may_win(server):
    """DESIGN, precedence."""
    refused = server.client().enroll(make_csr(), authorization=badge("visitor", "forged"))
    assert (refused.status, refused.text) == (401, "badge refused")
    token = server.make_token("by-token")
    assert server.client().enroll(make_csr(), token=token.value).status == 200


def test_order_comes_from_the_file(server, kipuka_servers, stranger):
    """RULES K4: asked in the order that is written, never in the order of installation."""
    for order, text in (
        (["badge", "mtls", "otp"], "badge refused"),
        (["mtls", "badge", "otp"], "certificate signed by unknown authority"),
    ):
        other = server
        if order != server.deployment.settings["auth"]["order"]:
            other = kipuka_servers(settings(auth={"order": order}), environ=stranger)
        foreign = other.client(make_root("Foreign").issue_client())
        answer = foreign.enroll(make_csr(), authorization=badge("visitor", "forged"))
        assert (answer.status, answer.text) == (401, text)


def test_without_a_written_order_the_start_is_refused(kipuka_servers, stranger):
    """RULES K4: with any other authenticator on, `[auth] order` must be written."""
    server = kipuka_servers(settings(auth=None), start=False, environ=stranger)
    with pytest.raises(ServerDied, match=r"auth\.order"):
        server.start()


def test_switched_off_it_is_not_imported(kipuka_servers, broken):
    """`[plugins] disabled` wins over all; a broken plugin that nobody uses stops nothing."""
    server = kipuka_servers({"plugins": {"disabled": ["broken_import"]}, "broken_import": {}}, environ=broken)
    assert server.client().cacerts().status == 200
    rows = {row["name"]: row for row in json.loads(server.deployment.kipuka("plugins", "--json").stdout)}
    assert rows["broken_import"]["state"] == "disabled"
    assert rows["broken_open"]["state"] == "unused"


# -- diagnosed ---------------------------------------------------------------------------------------------------------

BROKEN = {
    "broken_missing": ("import", "stranger_broken.not_there"),
    "broken_import": ("import", "a_module_that_nobody_has_installed"),
    "broken_future": ("version", "it needs API 1.3, this kipuka has 1.0; upgrade kipuka"),
    "broken_unstated": ("version", "it does not say which version of kipuka.api it is written for"),
    "broken_async": ("register", "async"),
    "broken_hook": ("register", "kipuka_coffee"),
    "broken_argument": ("register", "application"),
    "broken_collect": ("collect", "cannot say what I have"),
    "broken_record": ("collect", "dict"),
    "broken_name": ("collect", "something_else"),
}


def test_every_broken_plugin_is_diagnosed_at_once(kipuka_servers, broken):
    """DESIGN: all faults together, each with plugin, distribution, version, stage, problem and remedy; no traceback."""
    sections = {name: {} for name in BROKEN}
    server = kipuka_servers(
        {**sections, "auth": {"order": ["mtls", "otp", *BROKEN]}, "otp": {"token_length": 3}},
        start=False,
        environ=broken,
    )
    with pytest.raises(ServerDied) as died:
        server.start()
    said = str(died.value)
    checked = server.deployment.kipuka("check", expect=None)
    assert checked.returncode != 0
    for text in (said, checked.stdout + checked.stderr):
        for name, (stage, problem) in BROKEN.items():
            (line,) = [line for line in text.splitlines() if f"plugin {name} " in line]
            assert "stranger-broken 0.7" in line
            assert f", {stage}:" in line
            assert problem in line
            assert "; " in line
        assert "otp.token_length" in text
        assert "Traceback" not in text


def test_kipuka_plugins_works_even_then(kipuka_servers, broken):
    """DESIGN: the list says which are broken, and why."""
    sections = {name: {} for name in BROKEN}
    server = kipuka_servers({**sections, "auth": {"order": ["mtls", "otp", *BROKEN]}}, start=False, environ=broken)
    listed = server.deployment.kipuka("plugins", "--json", expect=None)
    rows = {row["name"]: row for row in json.loads(listed.stdout)}
    for name, (stage, problem) in BROKEN.items():
        assert rows[name]["state"] == "broken"
        assert rows[name]["problem"].startswith(f"{stage}:")
        assert problem in rows[name]["problem"]
    assert rows["otp"]["state"] == "used"
    assert "Traceback" not in listed.stderr


def test_why_tells_all_that_is_known_of_the_broken(kipuka_servers, broken):
    """`kipuka plugins --why`: distribution, file, key, version of the API, hooks, and each fault; of what is not used too, without
    importing it."""
    sections = {name: {} for name in BROKEN}
    server = kipuka_servers(
        {
            **sections,
            "auth": {"order": ["mtls", "badge", "otp", *BROKEN]},
            "badge": {"secret": "short", "colour": "red"},
        },
        start=False,
        environ=broken,
    )
    answer = server.deployment.kipuka("plugins", "--why", "--json", expect=3)
    assert "Traceback" not in answer.stderr
    found = {one["name"]: one for one in json.loads(answer.stdout)}
    for name, (stage, problem) in BROKEN.items():
        one = found[name]
        assert (one["state"], one["distribution"], one["version"]) == ("broken", "stranger-broken", "0.7")
        assert one["why"] == f"used by section [{name}]"
        (trouble,) = one["problems"]
        assert trouble["stage"] == stage
        assert problem in f"{trouble['problem']}; {trouble['remedy']}"
    assert found["broken_future"]["api"] == "1.3"
    assert found["broken_future"]["hooks"] == []
    assert found["broken_future"]["file"].endswith("stranger_broken/future.py")
    assert found["broken_unstated"]["api"] is None
    badge = found["badge"]
    assert {trouble["stage"] for trouble in badge["problems"]} == {"configure"}
    assert any("badge.colour" in trouble["problem"] for trouble in badge["problems"])
    assert [call["hook"] for call in badge["hooks"]] == ["kipuka_authenticators"]
    assert badge["hooks"][0]["returned"] == ["the method badge"]
    assert badge["order"] == 2
    assert (found["coupon"]["state"], found["coupon"]["api"], found["coupon"]["hooks"]) == ("unused", "1.0", [])
    assert "the section [coupon]" in found["coupon"]["why"]


def test_two_plugins_of_one_name_stop_the_start_and_both_are_named(kipuka_servers, site):
    """Stage find: neither is imported, both distributions are named."""
    server = kipuka_servers(settings(), start=False, environ=site("badge_and_smithy", "rival"))
    with pytest.raises(ServerDied) as died:
        server.start()
    text = str(died.value)
    assert "find" in text
    assert "stranger-badge-and-smithy" in text
    assert "stranger-rival" in text
    assert "imported although" not in text


def test_a_name_that_nobody_provides_is_a_fault_of_the_find_stage(kipuka_servers, stranger):
    """A misspelt backend, with the name that was probably meant."""
    server = kipuka_servers(settings(ca=[{"id": "forge", "backend": "smithey"}]), start=False, environ=stranger)
    with pytest.raises(ServerDied, match="smithey") as died:
        server.start()
    assert "smithy" in str(died.value).replace("smithey", "")


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({}, "badge.secret"),
        ({"secret": SECRET, "colour": "red"}, "badge.colour"),
        ({"secret": "short"}, "badge.secret"),
    ],
)
def test_a_wrong_section_is_diagnosed_as_the_hosts_own_are(kipuka_servers, stranger, section, expected):
    """Stage configure: the plugin's own model and check speak, with file and key."""
    server = kipuka_servers(settings(badge=section), start=False, environ=stranger)
    with pytest.raises(ServerDied) as died:
        server.start()
    assert expected in str(died.value)
    assert "Traceback" not in str(died.value)


def test_a_plugin_that_cannot_be_opened_is_named(kipuka_servers, stranger):
    """Stage open."""
    server = kipuka_servers(settings(badge={"secret": SECRET, "misbehave": "open"}), start=False, environ=stranger)
    with pytest.raises(ServerDied) as died:
        server.start()
    text = str(died.value)
    for word in ("plugin badge", "stranger-badge-and-smithy 3.1", "open", "no badge reader is plugged in"):
        assert word in text
    assert "Traceback" not in text


# -- misbehaving while it runs -----------------------------------------------------------------------------------------


def test_an_authenticator_that_raises_is_a_503_and_others_go_on(kipuka_servers, stranger):
    """RULES C3: the client hears nothing of its insides; the log does; the other methods are not touched."""
    server = kipuka_servers(settings(badge={"secret": SECRET, "misbehave": "raise"}), environ=stranger)
    server.tracebacks_expected = True
    answer = server.client().enroll(make_csr(), authorization=badge("visitor"))
    assert answer.status == 503
    assert answer.header("Retry-After")
    assert "fire" not in answer.text
    assert "on fire" in server.stderr
    assert server.client().enroll(make_csr(), token=server.make_token().value).status == 200


@pytest.fixture(scope="module")
def smithy(kipuka_servers, stranger):
    server = kipuka_servers(
        settings(
            ca=[
                {"id": "forge", "backend": "smithy", "behave_file": "behave"},
                {"id": "far", "backend": "faraway", "behave_file": "behave"},
            ],
            est={"default_ca": "forge", "ca_timeout": 1, "label": [{"name": "far", "ca": "far"}]},
        ),
        environ=stranger,
    )
    server.tracebacks_expected = True
    return server


def behave(server, how):
    (server.deployment.directory / "behave").write_text(how)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("unavailable", "backend_unavailable"),
        ("raise", "ca_failed"),
        ("hang", "ca_timeout"),
        ("other_key", "ca_mismatch"),
        ("other_subject", "ca_mismatch"),
        ("other_names", "ca_mismatch"),
        ("ca", "ca_mismatch"),
        ("other_issuer", "ca_mismatch"),
    ],
)
def test_a_fault_of_a_ca_costs_the_client_nothing(smithy, how, reason):
    """RULES C3, F6: 503, audited, nothing recorded, and the token is still good."""
    token = smithy.make_token(f"at-{how.replace('_', '-')}", san=["DNS:a.example"])
    csr = make_csr(dns=("a.example",))
    before = smithy.last_sequence
    behave(smithy, how)
    answer = smithy.client().enroll(csr, token=token.value)
    behave(smithy, "sign")
    assert answer.status == 503, answer.text
    assert int(answer.header("Retry-After")) >= 1
    assert "hammer" not in answer.text
    failed = smithy.wait_for_audit("enrolment_failed", after=before)
    assert failed["data"]["reason"] == reason
    view = smithy.view_token(token)
    assert (view["used"], view["held"]) == (0, 0)
    issued = smithy.client().enroll(csr, token=token.value)
    assert issued.status == 200, issued.text
    names = issued.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName("a.example")]


def test_what_a_remote_ca_left_unknown_is_not_given_back(smithy):
    """DESIGN: a time-out of a remote CA is unknown, not failed; the use stays held until it is known."""
    token = smithy.make_token("unknown", label="far")
    csr = make_csr(common_name="unknown")
    behave(smithy, "hang")
    answer = smithy.client().enroll(csr, label="far", token=token.value)
    behave(smithy, "sign")
    assert answer.status == 503
    view = smithy.view_token(token)
    assert (view["used"], view["held"]) == (0, 1)


def test_a_remote_ca_that_promises_is_answered_with_202_and_asked_again(smithy):
    """RFC 7030, 4.2.3: Retry-After; the same request collects; pending holds the use without a lease."""
    token = smithy.make_token("patient", label="far")
    csr = make_csr(common_name="patient")
    behave(smithy, "pending")
    for _ in range(2):
        answer = smithy.client().enroll(csr, label="far", token=token.value)
        assert (answer.status, answer.header("Retry-After"), answer.body) == (202, "7", b"")
        view = smithy.view_token(token)
        assert (view["used"], view["held"]) == (0, 1)
    behave(smithy, "sign")
    issued = smithy.client().enroll(csr, label="far", token=token.value)
    assert issued.status == 200, issued.text
    assert smithy.recorded(issued.certificate) is not None
    view = smithy.view_token(token)
    assert (view["used"], view["held"]) == (1, 0)


def coupon(name, secret=SECRET):
    return f"Coupon {name}:{hmac.new(secret.encode(), name.encode(), hashlib.sha256).hexdigest()}"


@pytest.fixture(scope="module")
def coupons(kipuka_servers, stranger):
    """A server at which a stranger's credential is used up, and a lost answer can be asked for again."""
    changes = {
        "auth": {"order": ["mtls", "coupon", "otp"]},
        "coupon": {"secret": SECRET},
        "est": {"replay_window": 600, "label": [{"name": "strict", "replay_window": 0}]},
    }
    server = kipuka_servers(changes, start=False, environ=stranger)
    server.deployment.kipuka("db", "upgrade")
    return server.start()


def test_its_credential_that_is_used_up_asks_for_a_lost_answer_as_ours_does(coupons):
    """RULES D4, for `Denied(spent=...)` of any plugin: the same request gets the same certificate, another one the denial."""
    csr = make_csr(common_name="x")
    client = coupons.client()
    first, again = (client.enroll(csr, authorization=coupon("ten-percent")) for _ in range(2))
    assert (first.status, again.status) == (200, 200), again.text
    assert again.certificate == first.certificate
    assert coupons.wait_for_audit("certificate_replayed", method="coupon")["identity"] == "coupon:ten-percent"
    other = client.enroll(make_csr(common_name="x"), authorization=coupon("ten-percent"))
    assert (other.status, other.text) == (401, "the coupon was used")
    forged = client.enroll(csr, authorization=coupon("ten-percent", "forged"))
    assert (forged.status, forged.text) == (401, "no such coupon")
    once = make_csr(common_name="x")
    strict = [client.enroll(once, label="strict", authorization=coupon("once")).status for _ in range(2)]
    assert strict == [200, 401]


def test_what_it_counts_is_counted_where_nothing_is_given_again(coupons):
    """RULES C4, `CountsFailures`: three are allowed; answers that are given again are not among them."""
    client = coupons.client().calling_from("127.0.2.1")
    csr = make_csr(common_name="x")
    assert [client.enroll(csr, authorization=coupon("counted")).status for _ in range(5)] == [200] * 5
    others = [client.enroll(make_csr(common_name="x"), authorization=coupon("counted")).status for _ in range(4)]
    assert others == [401, 401, 401, 429]


def test_a_sink_that_is_down_loses_nothing(kipuka_servers, stranger):
    """Guarantee 7: sinks are fed from the durable store, at least once, in order; enrolments do not wait for them."""
    server = kipuka_servers(
        settings(
            audit={
                "sink": [
                    {"type": "file", "path": "audit.jsonl"},
                    {"type": "ledger", "book": "ledger.txt", "closed_while": "closed"},
                ]
            }
        ),
        start=False,
        environ=stranger,
    )
    server.tracebacks_expected = True
    closed, book = server.deployment.directory / "closed", server.deployment.directory / "ledger.txt"
    closed.touch()
    server.start()
    for number in range(3):
        answer = server.client().enroll(make_csr(), authorization=badge(f"visitor-{number}"))
        assert answer.status == 200
    assert not book.exists()
    server.restart()
    assert not book.exists()
    last = server.last_sequence
    closed.unlink()

    def sequences():
        return [int(line.split()[1]) for line in book.read_text().split("\n")[:-1]] if book.exists() else []

    wait_until(lambda: last in sequences(), timeout=60, what="everything in the ledger")
    seen = list(dict.fromkeys(sequences()))
    assert seen == sorted(seen)
    assert seen[:last] == list(range(1, last + 1))
