"""Plugins that misbehave while they are used: each call is contained, told with the plugin's name, and takes nothing else down.

docs/plugins/failures.md has the outcome of each case."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kipuka.testing.pki import make_csr
from kipuka.testing.server import ServerDied, wait_until

pytestmark = [pytest.mark.server]

PRIVATE = "a private sentence"


@pytest.fixture(scope="module")
def unruly(site):
    return site("unruly")


@pytest.fixture(scope="module")
def server(kipuka_servers, unruly):
    running = kipuka_servers(
        {
            "server": {"workers": 1},
            "auth": {"order": ["mtls", "unruly", "otp"]},
            "unruly": {"behave_file": "behave"},
            "ca": [
                {
                    "id": "main",
                    "backend": "local",
                    "cert": "ca/issuing.pem",
                    "key": "ca/issuing.key",
                    "chain": "ca/root.pem",
                },
                {"id": "wild", "backend": "unruly_ca", "behave_file": "behave"},
            ],
            "est": {
                "default_ca": "main",
                "ca_timeout": 1,
                "label": [{"name": "wild", "ca": "wild"}, {"name": "alone", "auth": ["unruly"]}],
            },
            "audit": {
                "sink": [
                    {"type": "file", "path": "audit.jsonl"},
                    {"type": "unruly_sink", "behave_file": "behave"},
                ]
            },
            "plugins": {"trace": True},
        },
        environ=unruly,
    )
    running.tracebacks_expected = True
    return running


@pytest.fixture
def behave(server):
    """Makes methods misbehave, until the test ends."""
    file = server.deployment.directory / "behave"

    def tell(**how):
        file.write_text("".join(f"{method} {what}\n" for method, what in how.items()))

    yield tell
    file.unlink(missing_ok=True)
    server.client().enroll(make_csr())  # the challenge is had again, and nothing fails any more


def enrol(server, *, label=None, name="somebody"):
    return server.client().enroll(make_csr(), label=label, authorization=f"Unruly {name}")


def assert_contained(server, answer):
    """A 503 that says nothing of the plugin's insides, from a server that goes on."""
    assert answer.status == 503, answer.text
    assert int(answer.header("Retry-After")) >= 1
    assert PRIVATE not in answer.text
    assert server.client().cacerts().status == 200
    assert server.client().enroll(make_csr(), token=server.make_token().value).status == 200


def parts(server):
    return json.loads(server.client().request("GET", "/readyz").body)["parts"]


# --- an authenticator


@pytest.mark.parametrize(
    ("how", "explanation"),
    [
        ("raise", "the plugin unruly raised RuntimeError"),
        ("none", "the plugin unruly raised UnfitAnswer"),
        ("text", "the plugin unruly raised UnfitAnswer"),
        ("plain", "the plugin unruly raised UnfitAnswer"),
        ("inject", "the plugin unruly raised ValueError"),
        ("steal", "the plugin unruly raised ValueError"),
    ],
)
def test_a_method_that_fails_is_a_denial_and_the_others_go_on(server, behave, how, explanation):
    """RULES C3. Raised, answered with None or a text, no coroutine, a challenge with a line break, somebody else's claim."""
    before = server.last_sequence
    behave(authenticate=how)
    answer = enrol(server)
    failed = server.wait_for_audit("authentication_failed", after=before, method="unruly")
    assert (failed["data"]["reason"], failed["data"]["explanation"]) == ("plugin_failed", explanation)
    assert answer.header("X-Injected") is None
    behave()
    assert_contained(server, answer)


def test_a_method_that_hangs_is_given_up_after_its_time(server, behave):
    """A plugin that hangs per request: documented in docs/plugins/failures.md."""
    before = server.last_sequence
    behave(authenticate="hang")
    answer = enrol(server)
    failed = server.wait_for_audit("authentication_failed", after=before, method="unruly")
    assert failed["data"]["reason"] == "timed_out"
    assert failed["data"]["explanation"] == "the plugin unruly did not answer within 15 seconds"
    assert parts(server)["plugins"] == "failing"
    behave()
    assert_contained(server, answer)
    assert enrol(server).status == 200
    wait_until(lambda: parts(server)["plugins"] == "ok", what="the word that plugins are well")


@pytest.mark.parametrize("how", ["raise", "inject"])
def test_a_challenge_that_cannot_be_had_is_left_out(server, behave, how):
    behave(challenge=how)
    asked = server.client().enroll(make_csr())
    assert asked.status == 401
    assert asked.all("WWW-Authenticate") == ['Basic realm="kipuka", charset="UTF-8"']
    assert asked.header("X-Injected") is None


def test_where_there_is_no_other_challenge_the_answer_is_503_and_no_demand_for_a_certificate(server, behave):
    before = server.last_sequence
    behave(challenge="raise")
    answer = server.client().enroll(make_csr(), label="alone")
    rejected = server.wait_for_audit("request_rejected", after=before, reason="plugin_failed")
    assert rejected["data"]["plugin"] == "unruly"
    assert_contained(server, answer)


@pytest.mark.parametrize("how", ["raise", "text"])
def test_a_use_that_cannot_be_held_is_a_denial(server, behave, how):
    before = server.last_sequence
    behave(reserve=how)
    answer = enrol(server)
    failed = server.wait_for_audit("authentication_failed", after=before, method="unruly")
    assert failed["data"]["reason"] == "plugin_failed"
    assert failed["data"]["explanation"].startswith("unruly failed to hold the use: ")
    assert_contained(server, answer)


def test_a_use_that_cannot_be_spent_gives_no_certificate(server, behave):
    """Guarantee 2: the certificate is recorded together with the spent use, or not at all."""
    before = server.last_sequence
    behave(redeem="raise")
    answer = enrol(server, name="unredeemed")
    failed = server.wait_for_audit("enrolment_failed", after=before)
    assert (failed["data"]["reason"], failed["data"]["plugin"]) == ("plugin_failed", "unruly")
    assert not [
        event
        for event in server.audit("certificate_issued")
        if event["sequence"] > before and "unredeemed" in event["data"]["subject"]
    ]
    revoked = server.wait_for_audit("certificate_revoked", after=before)
    assert revoked["data"]["subject"].startswith("CN=unredeemed")
    found = server.admin("GET", f"/admin/certificates/{revoked['data']['fingerprint']}")
    assert json.loads(found.body)["state"] == "revoked"
    assert_contained(server, answer)


def test_a_use_that_cannot_be_given_back_is_told(server, behave):
    before = server.last_sequence
    behave(redeem="raise", release="raise")
    answer = enrol(server)
    failed = server.wait_for_audit("enrolment_failed", after=before)
    assert (failed["data"]["reason"], failed["data"]["plugin"]) == ("plugin_failed", "unruly")
    assert_contained(server, answer)
    behave(redeem="raise")
    assert enrol(server).status == 503  # this use does come back
    behave()
    assert enrol(server).status == 200
    wait_until(lambda: parts(server)["plugins"] == "ok", what="the word that plugins are well")


@pytest.mark.parametrize(("how", "status"), [("raise", 503), ("none", 503), (None, 204)])
def test_a_route_of_a_plugin_that_fails_is_a_503(server, behave, how, status):
    behave(**({} if how is None else {"route": how}))
    answer = server.admin("GET", "/admin/unruly")
    assert answer.status == status
    assert PRIVATE not in answer.text
    if status == 503:
        assert json.loads(answer.body)["error"] == "plugin_failed"


# --- a CA


@pytest.mark.parametrize(
    ("how", "reason"), [("raise", "ca_failed"), ("none", "ca_failed"), ("text", "ca_failed"), ("hang", "ca_timeout")]
)
@pytest.mark.parametrize("method", ["issue", "ca_certificates"])
def test_a_ca_that_fails_is_a_503_with_the_plugins_name(server, behave, method, how, reason):
    before = server.last_sequence
    behave(**{method: how})
    answer = enrol(server, label="wild")
    failed = server.wait_for_audit("enrolment_failed", after=before)
    assert (failed["data"]["reason"], failed["data"]["plugin"]) == (reason, "unruly_ca")
    if method == "ca_certificates":
        assert server.client().cacerts(label="wild").status == 503
        rejected = server.wait_for_audit("request_rejected", after=before)
        assert (rejected["data"]["reason"], rejected["data"]["plugin"]) == (reason, "unruly_ca")
    assert_contained(server, answer)
    behave()
    assert enrol(server, label="wild").status == 200


# --- health, and a sink


@pytest.mark.parametrize("how", ["raise", "hang", "text"])
def test_what_a_plugin_says_of_its_health_never_hinders_the_others(server, behave, how):
    """RULES H3: a word for everybody, the cause in the log; one CA that works is enough."""
    behave(health=how, ca_health=how)
    wait_until(lambda: parts(server)["plugins"] == "failing", what="the word about plugins")
    wait_until(lambda: parts(server)["ca"] == "partly usable", what="the word about CAs")
    assert PRIVATE not in json.dumps(parts(server))
    assert server.client().request("GET", "/readyz").status == 200
    behave()
    wait_until(lambda: (parts(server)["plugins"], parts(server)["ca"]) == ("ok", "ok"), what="health")


@pytest.mark.parametrize("how", ["raise", "text"])
def test_a_sink_that_fails_takes_nothing_with_it(server, behave, how):
    """Guarantee 7: the other sinks are fed, and this one is asked again."""
    behave(write=how)
    before = server.last_sequence
    assert enrol(server).status == 200
    server.wait_for_audit("certificate_issued", after=before)
    wait_until(lambda: parts(server)["plugins"] == "failing", what="the word about plugins")
    behave()
    wait_until(lambda: parts(server)["plugins"] == "ok", what="the sink's recovery")


# --- the trace


def traced(server):
    return [line for line in server.stderr.splitlines() if "plugin_call" in line or "plugin_hook" in line]


def test_the_trace_has_each_call_and_no_secret(server, behave):
    """`[plugins] trace`: plugin, method, duration, what sort of answer."""
    behave()
    assert enrol(server, name="very-secret-name").status == 200
    wait_until(
        lambda: any("unruly_sink" in line and "write" in line for line in traced(server)), what="the sink's call"
    )
    lines = traced(server)
    calls = [line for line in lines if "plugin_call" in line]
    for words in (
        ("unruly", "authenticate", "Authenticated"),
        ("unruly", "reserve", "None"),
        ("unruly", "redeem", "None"),
        ("local", "issue", "Issued"),
        ("unruly_sink", "write", "None"),
    ):
        assert any(all(word in line for word in (*words, "milliseconds")) for line in calls), words
    assert any("kipuka_authenticators" in line and "unruly" in line for line in lines if "plugin_hook" in line)
    assert "very-secret-name" not in "".join(lines)
    assert PRIVATE not in "".join(lines)


# --- the start


def test_a_plugin_that_hangs_while_it_is_opened_ends_the_start(kipuka_servers, unruly):
    """`[plugins] start_timeout`: a plugin that hangs at start."""
    server = kipuka_servers(
        {"hung_open": {}, "auth": {"order": ["mtls", "otp", "hung_open"]}, "plugins": {"start_timeout": 4}},
        start=False,
        environ=unruly,
    )
    with pytest.raises(ServerDied) as died:
        server.start()
    text = str(died.value)
    assert "plugin hung_open (stranger-unruly 2.4), open: it was not open after 4 seconds" in text
    assert "[plugins] start_timeout" in text
    assert "Traceback" not in text


def test_an_object_that_plays_another_role_ends_the_start(kipuka_servers, unruly):
    server = kipuka_servers(
        {"unfit_open": {}, "auth": {"order": ["mtls", "otp", "unfit_open"]}}, start=False, environ=unruly
    )
    with pytest.raises(ServerDied) as died:
        server.start()
    assert (
        "plugin unfit_open (stranger-unruly 2.4), open: what its opener gave, a value of type dict, has no challenge and no authenticate"
        in str(died.value)
    )


def test_a_plugin_that_hangs_while_it_is_imported_is_named(kipuka_servers, unruly):
    """Nothing can end it from outside: the line says whom to switch off."""
    server = kipuka_servers(
        {"hung_import": {}, "auth": {"order": ["mtls", "otp", "hung_import"]}}, start=False, environ=unruly
    )
    deployment = server.deployment
    command = [str(Path(sys.executable).with_name("kipuka")), "serve", "-c", str(deployment.config_file)]
    with subprocess.Popen(command, env=deployment.environment(), stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stderr.readline()
            assert process.poll() is None
        finally:
            process.kill()
    assert "plugin hung_import (stranger-unruly 2.4) is still being imported after 5 seconds" in line
    assert 'disabled = ["hung_import"] below [plugins]' in line
