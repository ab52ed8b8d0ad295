"""Who may enrol, and as whom."""

from __future__ import annotations

import pytest
from kipuka_auth_gssapi.config import GSSAPISettings
from kipuka_auth_gssapi.mapping import Mapped, PrincipalMapping, Unmapped
from kipuka_auth_gssapi.principals import Principal

from kipuka.api import format_dn

CHAPTER = {
    "keytab": "kipuka.keytab",
    "service_principal": "HTTP/est.example.com@EXAMPLE.COM",
    "principal_mapping": {
        "user@EXAMPLE.COM": "CN=User,OU=People,DC=example,DC=com",
        "admin@EXAMPLE.COM": "CN=Admin,OU=Admins,DC=example,DC=com",
        "default_template": "CN={principal},OU=Users,DC=example,DC=com",
    },
}


def find(principal, **changes):
    settings = GSSAPISettings.model_validate({**CHAPTER, **changes})
    return PrincipalMapping.of(settings).find(Principal.parse(principal))


@pytest.mark.parametrize(
    ("principal", "subject"),
    [
        ("user@EXAMPLE.COM", "CN=User,OU=People,DC=example,DC=com"),
        ("admin@EXAMPLE.COM", "CN=Admin,OU=Admins,DC=example,DC=com"),
        ("alice@EXAMPLE.COM", "CN=alice@EXAMPLE.COM,OU=Users,DC=example,DC=com"),
        ("admin/admin@EXAMPLE.COM", "CN=admin/admin@EXAMPLE.COM,OU=Users,DC=example,DC=com"),
    ],
)
def test_the_chapters_table_maps_as_the_chapter_says(principal, subject):
    """The chapter, Principal Mapping: explicit first, then the template."""
    found = find(principal)
    assert isinstance(found, Mapped)
    assert format_dn(found.subject) == subject


@pytest.mark.parametrize(
    ("principal", "changes", "reason"),
    [
        pytest.param("alice@EXAMPLE.COM", {"principal_mapping": {}}, "principal_not_mapped", id="no template"),
        pytest.param("alice@PARTNER.COM", {}, "foreign_realm", id="another realm"),
        pytest.param("user@PARTNER.COM", {}, "foreign_realm", id="another realm's user of the same name"),
        pytest.param("alice@EXAMPLE.COM", {"realms": ["PARTNER.COM"]}, "foreign_realm", id="realm not in the list"),
        pytest.param("alice@example.com", {}, "foreign_realm", id="realms have a case"),
        pytest.param("WELLKNOWN/ANONYMOUS@EXAMPLE.COM", {}, "anonymous_principal", id="anonymous"),
        pytest.param("a" * 70 + "@EXAMPLE.COM", {}, "principal_unsuitable", id="too long"),
        pytest.param(
            "alice@EXAMPLE.COM",
            {"principal_mapping": {}, "host_template": "CN={host}"},
            "principal_not_mapped",
            id="a template for hosts is not for users",
        ),
    ],
)
def test_who_is_not_mapped_gets_nothing(principal, changes, reason):
    found = find(principal, **changes)
    assert isinstance(found, Unmapped)
    assert found.reason == reason
    assert principal in found.explanation


def test_a_realm_that_is_named_is_let_in():
    found = find("alice@PARTNER.COM", realms=["EXAMPLE.COM", "PARTNER.COM"])
    assert isinstance(found, Mapped)
    assert format_dn(found.subject).startswith("CN=alice@PARTNER.COM,")


def test_hosts_have_their_own_template_where_there_is_one():
    hosts = {"host_template": "CN={host},OU=Hosts"}
    assert format_dn(find("WS42$@EXAMPLE.COM", **hosts).subject) == "CN=ws42,OU=Hosts"
    assert format_dn(find("host/a.example.com@EXAMPLE.COM", **hosts).subject) == "CN=a.example.com,OU=Hosts"
    assert format_dn(find("alice@EXAMPLE.COM", **hosts).subject).startswith("CN=alice@EXAMPLE.COM,")
    assert find("WS42$@EXAMPLE.COM").host_name == "ws42"
    assert find("WS42$@EXAMPLE.COM", san=["upn"]).host_name is None


def test_the_template_may_stand_in_either_place():
    other = find("alice@EXAMPLE.COM", principal_mapping={}, default_template="CN={user}")
    assert format_dn(other.subject) == "CN=alice"
