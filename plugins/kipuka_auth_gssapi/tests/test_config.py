"""The section, and what is said of a wrong one."""

from __future__ import annotations

import pytest
from kipuka_auth_gssapi.config import GSSAPISettings
from pydantic import ValidationError

MINIMAL = {"keytab": "kipuka.keytab", "service_principal": "HTTP/est.example.com@EXAMPLE.COM"}


def read(**changes):
    return GSSAPISettings.model_validate({**MINIMAL, **changes})


def test_one_service_principal_or_several():
    assert read().services == {"HTTP/est.example.com@EXAMPLE.COM"}
    assert read(service_principal=["HTTP/a@X", "HTTP/b@Y"]).services == {"HTTP/a@X", "HTTP/b@Y"}
    assert read(service_principal=["HTTP/a@X", "HTTP/b@Y"]).allowed_realms == {"X", "Y"}
    assert read(realms=["Z"]).allowed_realms == {"Z"}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"service_principal": "HTTP/est.example.com"}, "with its realm"),
        ({"service_principal": []}, "at least 1"),
        ({"default_template": "CN={name}"}, "no field {name}"),
        ({"default_template": "nonsense"}, "RFC 4514"),
        ({"host_template": "CN={user"}, "brace"),
        ({"principal_mapping": {"alice": "CN=a"}}, "with its realm"),
        ({"principal_mapping": {"alice@X": "CN={user}"}}, "has a placeholder"),
        ({"principal_mapping": {"alice@X": "alice"}}, "RFC 4514"),
        ({"principal_mapping": {"alice@X": "CN=a", "\\alice@X": "CN=b"}}, "twice"),
        ({"principal_mapping": {"default_template": "CN={user}"}, "default_template": "CN={user}"}, "take one"),
        ({"realms": ["A/B"]}, "not a realm"),
        ({"channel_binding": "never"}, "when_sent"),
        ({"san": ["email"]}, "krb5"),
        ({"no_such_key": 1}, "Extra inputs"),
    ],
)
def test_a_wrong_section_is_told(changes, problem):
    with pytest.raises(ValidationError, match=problem):
        read(**changes)


@pytest.mark.parametrize("key", ["keytab", "service_principal"])
def test_what_cannot_be_guessed_is_required(key):
    with pytest.raises(ValidationError, match="Field required"):
        GSSAPISettings.model_validate({name: value for name, value in MINIMAL.items() if name != key})
