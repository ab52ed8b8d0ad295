"""Whatever stands in the file, the answer is settings or a list of problems, never another exception."""

from __future__ import annotations

import math
import tomllib
from datetime import date, datetime, time
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kipuka.api import ConfigError
from kipuka.config import RawConfig
from kipuka.config.document import Document
from kipuka.config.host import HOST_SECTIONS, read_host
from kipuka.config.sections import BearerTokenItem, BearerTokenSection, LabelItem
from kipuka.config.settings import Settings
from tests.unit.config.conftest import INSTALLED, KINDS

MODELS = [*HOST_SECTIONS.values(), LabelItem, BearerTokenSection, BearerTokenItem]
KEYS = sorted(
    {name for model in MODELS for name in model.model_fields}
    | {"label", "sink", "client_auth", "trust_anchors", "mode", "enabled", "reader", "window", "tls", "zzz", ""}
)
WORDS = [
    "",
    "one",
    "a.pem",
    "127.0.0.1:0",
    "[::1]:1",
    "smithy",
    "jotter",
    "mtls",
    "badge",
    "csr",
    "sqlite:///~nobody-of-this-name/x",
    "sqlite:///a\0b",
    "env:NOT_SET_ANYWHERE",
    "file:none",
    "~nobody-of-this-name/x",
    "a\0b",
    "*",
    "1.2.3",
    "optional",
    "\ud7ff",
]
scalars = st.one_of(
    st.booleans(),
    st.integers(),
    st.sampled_from([10**400, -(10**400), 0, 1]),
    st.floats(),
    st.sampled_from([math.inf, -math.inf, math.nan, 1e-320]),
    st.sampled_from(WORDS),
    st.text(max_size=5),
    st.just(datetime(2026, 1, 1)),  # noqa: DTZ001 - TOML has local times too
    st.just(date(2026, 1, 1)),
    st.just(time(1)),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)),
    max_leaves=8,
)


def table(model):
    return st.dictionaries(
        st.sampled_from([*model.model_fields, "label", "sink", "client_auth", "zzz"]), values, max_size=4
    )


sections = st.fixed_dictionaries(
    {},
    optional={
        **{
            name: st.one_of(table(model), st.lists(table(model), max_size=2), values)
            for name, model in HOST_SECTIONS.items()
        },
        "badge": values,
        "otp": values,
        "mtls": values,
        "gssapi": values,
        "nobody": values,
        "": values,
    },
)


WHOLE = """
[server]
listen = "127.0.0.1:1"
admin_listen = "127.0.0.1:2"
node = "a"
max_body_size = 5000
idle_timeout = 5
[tls]
cert = "a"
key = "b"
key_password = "c"
[tls.client_auth]
mode = "optional"
trust_anchors = "a"
[db]
url = "sqlite:///a"
[[ca]]
id = "one"
backend = "smithy"
validity_days = 5
cert = "a"
[[ca]]
id = "two"
backend = "smithy"
cert = "a"
[est]
default_ca = "one"
default_profile = "web"
base64_lines = "auto"
[[est.label]]
name = "x"
ca = "two"
profile = "web"
auth = ["mtls", "badge"]
client_anchors = "a"
[[profile]]
name = "web"
names = "csr"
san_domains = ["example.com"]
key_types = ["rsa"]
min_rsa_bits = 2048
validity_days = 5
backdate_minutes = 5
extended_key_usage = ["clientAuth", "1.2.3"]
subject_patterns = { CN = ["a*"] }
san_patterns = { dns = ["*.example.com"], ip = ["10.0.0.0/8"], email = ["*@example.com"], uri = ["urn:x:*"] }
[auth]
order = ["mtls", "badge"]
[plugins]
disabled = ["otp"]
[badge]
reader = "x"
window = 5
[otp]
[admin.bearer_token]
tokens = [{ token_hash = "sha256:0000000000000000000000000000000000000000000000000000000000000000", description = "a" }]
[[audit.sink]]
type = "jotter"
id = "j"
path = "a"
[log]
level = "info"
"""


def places(value, path=()):
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*path, key)
            yield from places(inner, (*path, key))


PLACES = sorted(places(tomllib.loads(WHOLE)), key=str)


@st.composite
def spoilt(draw):
    """A good configuration with one or two values replaced, or taken out."""
    document = tomllib.loads(WHOLE)
    for path in draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=2)):
        here = document
        for part in path[:-1]:
            try:
                here = here[part]
            except (KeyError, IndexError, TypeError):
                break
        else:
            if isinstance(here, dict | list) and (
                isinstance(here, dict) or (isinstance(path[-1], int) and path[-1] < len(here))
            ):
                if draw(st.booleans()):
                    here[path[-1]] = draw(values)
                elif isinstance(here, dict):
                    here.pop(path[-1], None)
    return document


def settle(document):
    """Settings, or None where there are problems."""
    read = Document(file=Path("/kipuka.toml"), sha256="", values=document, overrides={}, problems=())
    host, problems = read_host(read)
    raw = RawConfig(document=read, problems=tuple(problems), host=host)
    assert raw.uses().keys().isdisjoint(raw.disabled)
    try:
        settled = raw.settle(**KINDS, installed=INSTALLED)
    except ConfigError as error:
        assert error.problems
        for problem in error.problems:
            assert problem.problem
            assert problem.remedy
        return None
    assert isinstance(settled, Settings)
    assert None in settled.labels
    assert settled.cas
    return settled


def test_the_whole_is_good():
    assert settle(tomllib.loads(WHOLE)) is not None


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(sections)
def test_no_configuration_breaks_the_reading(document):
    settle(document)


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(spoilt())
def test_no_mistake_in_a_good_configuration_breaks_the_reading(document):
    settle(document)
