"""What the kit writes as TOML, tomllib reads back."""

from __future__ import annotations

import tomllib

import pytest

from kipuka.testing.toml import dumps, merged


def test_a_document_survives_writing_and_reading():
    document = {
        "ca": [{"id": "a", "validity_days": 1.5}, {"id": "b"}],
        "server": {"listen": "127.0.0.1:0", "limit": 7, "on": True, "names": ["a", 'qu"ote\\', "über"]},
        "tls": {"cert": "a.pem", "client_auth": {"mode": "required"}},
        "odd key": {"": 1},
    }
    assert tomllib.loads(dumps(document)) == document


def test_changes_are_laid_over_and_none_removes():
    document = {"a": {"x": 1, "y": 2}, "b": [1], "c": "gone"}
    assert merged(document, {"a": {"x": None, "z": 3}, "b": [2], "c": None, "d": {"e": 4}, "none": None}) == {
        "a": {"y": 2, "z": 3},
        "b": [2],
        "d": {"e": 4},
    }
    assert document == {"a": {"x": 1, "y": 2}, "b": [1], "c": "gone"}


def test_what_toml_cannot_hold_is_refused():
    with pytest.raises(TypeError, match="object"):
        dumps({"a": object()})
