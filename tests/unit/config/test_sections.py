"""The host's sections: what is read, and what is said of every mistake."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from kipuka.config import Address
from tests.unit.config.conftest import CA, GOOD, SERVER, problems, settled


def test_a_small_configuration_has_safe_defaults(tmp_path):
    settings = settled(tmp_path, GOOD)
    assert settings.server.listen == Address("0.0.0.0", 8443)
    assert settings.server.admin_listen is None
    assert settings.server.max_body_size == 65536
    assert settings.server.idle_timeout == timedelta(seconds=60)
    assert settings.tls.min_version == "1.2"
    assert settings.est.base_path == "/.well-known/est"
    assert settings.est.base64_lines == "auto"
    assert settings.admin is None
    assert settings.sinks == ()
    assert settings.auth == ()
    assert (settings.log.format, settings.log.level) == ("console", "info")


def test_paths_are_relative_to_the_file(tmp_path):
    """RULES K6."""
    settings = settled(tmp_path, GOOD + '[db]\nurl = "sqlite:///data/k.db"\n')
    assert settings.tls.cert == tmp_path / "server.pem"
    assert settings.cas[0].settings.cert == tmp_path / "ca.pem"
    assert settings.db.url == f"sqlite:///{tmp_path}/data/k.db"


def test_an_absolute_database_stays_where_it_is(tmp_path):
    assert settled(tmp_path, GOOD + '[db]\nurl = "sqlite:////var/k.db"\n').db.url == "sqlite:////var/k.db"


def test_the_url_of_the_database_may_be_a_secret(tmp_path, monkeypatch):
    """RULES K6: it may have a password in it, which no error and no dump of the settings shows."""
    url = "postgresql://kipuka:sesame@db.example/kipuka?sslmode=verify-full"
    (tmp_path / "db.url").write_text(f"{url}\n")
    monkeypatch.setenv("DB_URL", url)
    for written in (url, "file:db.url", "env:DB_URL"):
        settings = settled(tmp_path, GOOD + f'[db]\nurl = "{written}"\n')
        assert settings.db.url == url
        assert "sesame" not in repr(settings)


def test_a_relative_file_is_taken_from_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert settled(Path(), GOOD).file == tmp_path / "kipuka.toml"


def test_secrets_are_read_from_files_and_the_environment_and_never_shown(tmp_path, monkeypatch):
    """RULES K6, guarantee 8."""
    (tmp_path / "password").write_text("hunter2\n")
    from_file = settled(tmp_path, SERVER + 'key_password = "file:password"\n' + CA)
    monkeypatch.setenv("SERVER_PASSWORD", "hunter2")
    from_environment = settled(tmp_path, SERVER + 'key_password = "env:SERVER_PASSWORD"\n' + CA)
    for settings in (from_file, from_environment):
        assert settings.tls.key_password.get_secret_value() == "hunter2"
        assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:1", Address("127.0.0.1", 1)),
        ("[::1]:443", Address("::1", 443)),
        ("[0:0::0]:443", Address("::", 443)),
        ("est.example.com:0", Address("est.example.com", 0)),
    ],
)
def test_an_address_is_read_and_written(text, address):
    assert Address.parse(text) == address
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize("text", ["8443", ":8443", "a:b", "a:65536", "::1:80", "[x]:1", "a b:1", "-a:1", "a:", "a:٣"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match=r"needed|no port|brackets|IPv6"):
        Address.parse(text)


def proxies(tmp_path, *texts):
    listed = ", ".join(f'"{text}"' for text in texts)
    return settled(tmp_path, f"[server]\nproxy_protocol_from = [{listed}]\n" + GOOD).server.proxy_protocol_from


def test_load_balancers_are_addresses_and_networks(tmp_path):
    found = proxies(tmp_path, "10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "::1", "10.0.0.0/255.0.0.0")
    assert [str(network) for network in found] == [
        "10.0.0.0/8",
        "192.0.2.1/32",
        "2001:db8::/32",
        "::1/128",
        "10.0.0.0/8",
    ]
    assert settled(tmp_path, GOOD).server.proxy_protocol_from == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("10.0.0.1/8", "write 10.0.0.0/8 for all of it"),
        ("balancer.example.com", "an IP address or a network is needed"),
        ("", "an IP address or a network is needed"),
        ("10.0.0.0/33", "an IP address or a network is needed"),
        ("fe80::1%eth0", "leave it out"),
        ("::ffff:10.0.0.1", "is written as IPv4"),
    ],
)
def test_what_is_no_address_or_network_of_a_load_balancer_is_refused(tmp_path, text, words):
    found = problems(tmp_path, f'[server]\nproxy_protocol_from = ["{text}"]\n' + GOOD)
    assert words in found["server.proxy_protocol_from[0]"].problem


@pytest.mark.parametrize("value", ["false", "true", "7", "[]"])
def test_a_network_is_written_as_a_string(tmp_path, value):
    """0 and false are addresses to Python's library."""
    found = problems(tmp_path, f"[server]\nproxy_protocol_from = [{value}]\n" + GOOD)
    assert "a string is needed" in found["server.proxy_protocol_from[0]"].problem


@pytest.mark.parametrize("delay", ["-1", '"10"'])
def test_the_delay_of_a_stop_is_not_negative(tmp_path, delay):
    assert "server.drain_delay" in problems(tmp_path, f"[server]\ndrain_delay = {delay}\n" + GOOD)


def test_every_mistake_is_reported_at_once(tmp_path):
    found = problems(
        tmp_path,
        """
        [server]
        listen = 3
        shutdown_timeout = "30"
        [tls]
        cert = ["a"]
        min_version = "1.1"
        [est]
        base_path = "est"
        [[est.label]]
        ca = "one"
        [[est.label]]
        name = "cacerts"
        ca = "tow"
        profile = "defualt"
        [[profile]]
        name = "web"
        min_rsa_bits = 1024
        extended_key_usage = ["webAuth"]
        [log]
        level = 5
        [badge]
        reader = true
        [[ca]]
        id = "one"
        backend = "smithy"
        """,
    )
    assert set(found) == {
        "server.listen",
        "server.shutdown_timeout",
        "tls.cert",
        "tls.key",
        "tls.min_version",
        "est.base_path",
        "est.label[0].name",
        "est.label[cacerts].name",
        "est.label[cacerts].ca",
        "est.label[cacerts].profile",
        "profile[web].min_rsa_bits",
        "profile[web].extended_key_usage[0]",
        "log.level",
        "badge.reader",
        "ca[one].cert",
        "auth.order",
    }
    for problem in found.values():
        assert problem.file == str(tmp_path / "kipuka.toml")
        assert problem.problem
        assert problem.remedy


@pytest.mark.parametrize(
    ("text", "key", "problem", "remedy"),
    [
        pytest.param("[server]\nlistn = 1", "server.listn", "unknown key", "did you mean listen?", id="mistyped key"),
        pytest.param(
            "[log]\nzzz = 1", "log.zzz", "unknown key", "take it out: the keys here are format, level", id="unknown key"
        ),
        pytest.param(
            '[server]\nmax_body_size = "1"',
            "server.max_body_size",
            "a whole number is needed, not a string",
            "write max_body_size = 65536, without quotes",
            id="string for a number",
        ),
        pytest.param(
            "[server]\nmax_body_size = true",
            "server.max_body_size",
            "a whole number is needed, not a boolean",
            "write max_body_size = 65536, without quotes",
            id="boolean for a number",
        ),
        pytest.param(
            '[server]\nidle_timeout = "60"',
            "server.idle_timeout",
            "a number is needed, not a string",
            "write idle_timeout = 60, without quotes",
            id="string for seconds",
        ),
        pytest.param(
            "[server]\nidle_timeout = 0",
            "server.idle_timeout",
            "a number of seconds above 0 is needed",
            "mend idle_timeout (how long a connection may stay open without a request, in seconds)",
            id="no time",
        ),
        pytest.param(
            '[[profile]]\nname = "a"\nunique_keys = 1',
            "profile[a].unique_keys",
            "true or false is needed, not a whole number",
            "write unique_keys = true or unique_keys = false, without quotes",
            id="number for a boolean",
        ),
        pytest.param(
            "[server]\nmax_body_size = 1",
            "server.max_body_size",
            "1024 or more is needed",
            "mend max_body_size (largest request body, in bytes)",
            id="too small",
        ),
        pytest.param(
            '[log]\nformat = "xml"',
            "log.format",
            "it is none of the values it may have",
            'write "console" or "json"',
            id="not a choice",
        ),
        pytest.param(
            "[[server]]\n", "server", "a table is needed, not an array", "write [server] in single brackets", id="array"
        ),
        pytest.param(
            '[profile]\nname = "a"',
            "profile",
            "an array of tables is needed",
            "write [[profile]] in double brackets",
            id="table",
        ),
        pytest.param(
            '[db]\nurl = "postgresql://u:pw@h"',
            "db.url",
            "the URL names no database, as in postgresql://USER@HOST/DATABASE",
            None,
            id="no db",
        ),
        pytest.param(
            '[db]\nurl = "postgres://h/d"',
            "db.url",
            "PostgreSQL's URL is written postgresql://USER@HOST/DATABASE",
            None,
            id="another scheme",
        ),
        pytest.param(
            '[db]\nurl = "postgresql://u:p w@h/d"',
            "db.url",
            "a # or a space in a password is written %23 or %20",
            None,
            id="space",
        ),
        pytest.param('[db]\nurl = "file:none"', "db.url", None, None, id="K6: no such file"),
        pytest.param("[db]\ncommit_timeout = 0.5", "db.commit_timeout", None, None, id="too short"),
        pytest.param('[db]\nurl = "sqlite://"', "db.url", None, None, id="memory"),
        pytest.param('[db]\nurl = "sqlite:///a?mode=ro"', "db.url", None, None, id="options"),
        pytest.param("[mtls]\n", "mtls", "unknown section", "write it as [tls.client_auth]", id="K2: mtls"),
        pytest.param(
            '[server]\nadmin_listen = "127.0.0.1:1"',
            "server.admin_listen",
            "there is no [admin] section",
            None,
            id="no admin",
        ),
        pytest.param(
            '[server]\nlisten = "127.0.0.1:1"\nadmin_listen = "127.0.0.1:1"\n[admin.bearer_token]\n',
            "server.admin_listen",
            "it is the address of listen",
            None,
            id="one address twice",
        ),
        pytest.param("[admin]\n", "admin", "the admin API is on, but nobody could sign in", None, id="E2: no method"),
        pytest.param(
            '[admin.tls]\ntrust_anchors = "a.pem"\n',
            "admin",
            "the admin API is on, but nobody could sign in",
            None,
            id="E2: mode none is no method",
        ),
        pytest.param(
            '[admin.tls]\nmode = "required"\n',
            "admin.tls",
            'mode "required" needs trust_anchors, a PEM file of CA certificates',
            'write it, or mode = "none"',
            id="a mode without anchors",
        ),
        pytest.param(
            '[admin.tls]\nmode = "optional"\ntrust_anchors = "a.pem"\nallow = ["CN=*", "alice"]\n',
            "admin.tls.allow[1]",
            "it is no pattern of a subject or alternative name: the attribute type alice is not known",
            None,
            id="E2: no pattern",
        ),
        pytest.param(
            "[admin.bearer_token]\nenabled = false\n",
            "admin",
            "the admin API is on, but nobody could sign in",
            None,
            id="E2: method off",
        ),
        pytest.param(
            '[admin.bearer_token]\ntokens = [{token_hash = "secretsecret", description = "x"}]\n',
            "admin.bearer_token.tokens[0].token_hash",
            "sha256: and 64 hexadecimal digits are needed",
            None,
            id="not a hash",
        ),
        pytest.param('[tls]\nclient_auth = "none"\n', "tls.client_auth", "a table is needed", None, id="client_auth"),
        pytest.param(
            "[otp]\nenabled = 1\n", "otp.enabled", "true or false is needed, not a whole number", None, id="enabled"
        ),
        pytest.param(
            "[badge]\nenabled = 1\n", "badge.enabled", "true or false is needed", None, id="enabled, the host's"
        ),
        pytest.param("[audit]\nsnik = 1\n", "audit.snik", "unknown key", "did you mean sink?", id="audit"),
        pytest.param("[audit]\nflood_threshold = 0\n", "audit.flood_threshold", None, None, id="no threshold"),
        pytest.param("[[audit]]\n", "audit", "a table is needed, not an array", None, id="audit, an array"),
    ],
)
def test_each_mistake_says_what_to_write(tmp_path, text, key, problem, remedy):
    body = GOOD if "[tls]" not in text else CA
    found = problems(tmp_path, body + text)[key]
    assert problem is None or found.problem == problem
    assert remedy is None or found.remedy == remedy
    assert "secretsecret" not in str(found)


@pytest.mark.parametrize(
    ("line", "key", "remedy"),
    [
        ('listen = "a:1"', "listen", "write it below [server]"),
        ("url = 3", "url", "write it below [db]"),
        ('cert = "x"', "cert", "write it below [tls]"),
        ("servr = 3", "servr", "did you mean server?"),
        ("[[profil]]", "profil", "did you mean [[profile]]?"),
    ],
)
def test_a_key_outside_of_any_section_is_sent_home(tmp_path, line, key, remedy):
    assert problems(tmp_path, line + "\n" + GOOD)[key].remedy == remedy


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[server]\npublic_listen = "a:1"', "server.public_listen"),
        ("[server]\nproxy_protocol = true", "server.proxy_protocol"),
    ],
)
def test_what_a_later_version_brings_is_refused_and_never_ignored(tmp_path, text, key):
    """RULES K1."""
    found = problems(tmp_path, GOOD + text)
    assert found[key].problem == "not available in this version"
    assert len(found) == 1


@pytest.mark.parametrize("name", ["simpleenroll", "cacerts", "fullcmc", "serverkeygen"])
def test_a_label_is_not_named_like_an_operation(tmp_path, name):
    """RULES F7."""
    found = problems(tmp_path, GOOD + f'[[est.label]]\nname = "{name}"\n')
    assert found[f"est.label[{name}].name"].problem == f"{name} is an EST operation"


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "ä", "a%20"])
def test_a_label_is_one_segment_of_a_path(tmp_path, name):
    found = problems(tmp_path, GOOD + f'[[est.label]]\nname = "{name}"\n')
    assert [problem.problem for problem in found.values()] == ["it cannot stand in a path"]


def test_names_of_labels_profiles_cas_and_sinks_are_unique(tmp_path):
    text = (
        CA
        + '[[est.label]]\nname = "a"\n' * 2
        + '[[profile]]\nname = "b"\n' * 2
        + '[[audit.sink]]\ntype = "jotter"\n' * 2
    )
    found = problems(tmp_path, GOOD + text)
    assert set(found) == {"ca[1].id", "est.label[1].name", "profile[1].name", "audit.sink[1].id"}


def test_the_environment_takes_the_place_of_the_file(tmp_path):
    environ = {"KIPUKA_SERVER__LISTEN": "127.0.0.1:9", "KIPUKA_TLS__MIN_VERSION": "1.3", "KIPUKA_SERVER__NODE": "7"}
    settings = settled(tmp_path, '[server]\nlisten = "127.0.0.1:1"\n' + GOOD, environ)
    assert settings.server.listen == Address("127.0.0.1", 9)
    # it reads as a number, but the key takes strings
    assert (settings.tls.min_version, settings.server.node) == ("1.3", "7")
    assert settings.overrides["server.listen"] == "KIPUKA_SERVER__LISTEN"


def test_an_unknown_variable_is_a_problem_of_that_variable(tmp_path):
    found = problems(tmp_path, GOOD, {"KIPUKA_SERVER__LISTN": "x", "KIPUKA_LOG__LEVEL": "loud"})
    assert found["server.listn"].file == "environment variable KIPUKA_SERVER__LISTN"
    assert found["log.level"].file == "environment variable KIPUKA_LOG__LEVEL"


def test_no_problem_shows_a_value(tmp_path):
    """Guarantee 8: a secret may stand where it does not belong."""
    text = """
    [server]
    listen = "hunter2"
    node = "hunter2 hunter2"
    max_body_size = "hunter2"
    [log]
    level = "hunter2"
    [badge]
    reader = 7
    window = "hunter2"
    [[profile]]
    name = "default"
    extended_key_usage = ["hunter2"]
    key_types = ["hunter2"]
    """
    found = problems(tmp_path, GOOD + text, {"KIPUKA_TLS__MIN_VERSION": "hunter2", "KIPUKA_BADGE__STRICT": "hunter2"})
    assert len(found) >= 9
    assert "hunter2" not in str(list(found.values()))


def test_audit_that_is_no_table_is_one_mistake(tmp_path):
    found = problems(tmp_path, "audit = 1\n" + GOOD)
    assert {key: one.problem for key, one in found.items()} == {"audit": "a table is needed, not a whole number"}
