"""Reading the file, and laying the environment over it."""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager

import pytest

from kipuka.api import ConfigError
from kipuka.config.document import read_document


def refusal(file, environ=None):
    with pytest.raises(ConfigError) as caught:
        read_document(file, environ or {})
    (problem,) = caught.value.problems
    assert problem.file == str(file)
    assert problem.remedy
    return problem.problem


def document(tmp_path, text="", **environ):
    file = tmp_path / "kipuka.toml"
    file.write_text(text, encoding="utf-8")
    return read_document(file, environ)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    assert refusal(tmp_path / "none.toml") == "there is no such file"


def test_a_directory_is_said_to_be_one(tmp_path):
    assert refusal(tmp_path) == "it is a directory"


@contextmanager
def no_superuser():
    """Root reads every file; an account without powers does not."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_file_that_may_not_be_read_is_said_to_be_so(tmp_path):
    file = tmp_path / "kipuka.toml"
    file.touch(mode=0o000)
    with no_superuser():
        assert refusal(file) == "it cannot be read: Permission denied"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(b"[server]\nlisten = \xff\n", "it is not UTF-8 text (line 2)", id="not utf-8"),
        pytest.param(b"\xef\xbb\xbf[server]\n", "it starts with a byte order mark", id="byte order mark"),
        pytest.param(b"[server]\nlisten = here\n", "it is not TOML: Invalid value (at line 2, column 10)", id="syntax"),
        pytest.param(b"a = " + b"[" * 100_000, "it is nested too deep to be read", id="nesting"),
    ],
)
def test_what_is_not_toml_is_refused_with_the_place(tmp_path, content, problem):
    file = tmp_path / "kipuka.toml"
    file.write_bytes(content)
    assert refusal(file) == problem


def test_the_hash_is_that_of_the_file(tmp_path):
    text = "[server]\n"
    assert document(tmp_path, text).sha256 == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        pytest.param("20", 20, id="number"),
        pytest.param("true", True, id="boolean"),
        pytest.param('["a", "b"]', ["a", "b"], id="array"),
        pytest.param('"20"', "20", id="quoted string"),
        pytest.param("127.0.0.1:1", "127.0.0.1:1", id="bare string"),
        pytest.param("", "", id="empty"),
        pytest.param("1\nother = 2", "1\nother = 2", id="two lines are no way to a second key"),
    ],
)
def test_a_variable_is_a_toml_value_where_it_reads_as_one(tmp_path, text, value):
    assert document(tmp_path, KIPUKA_OTP__KEY=text).values == {"otp": {"key": value}}


def test_a_variable_takes_the_place_of_the_file(tmp_path):
    text = '[tls.client_auth]\nmode = "none"\ntrust_anchors = "a.pem"\n'
    read = document(tmp_path, text, KIPUKA_TLS__CLIENT_AUTH__MODE="required")
    assert read.values == {"tls": {"client_auth": {"mode": "required", "trust_anchors": "a.pem"}}}


def test_items_of_arrays_are_addressed_by_number(tmp_path):
    text = '[[ca]]\nid = "a"\n[[ca]]\nid = "b"\n'
    assert document(tmp_path, text, KIPUKA_CA__1__KEY="k").values["ca"][1] == {"id": "b", "key": "k"}


def test_keys_in_capitals_are_found(tmp_path):
    text = '[table]\nCN = "a"\n'
    assert document(tmp_path, text, KIPUKA_TABLE__CN="b").values == {"table": {"CN": "b"}}


@pytest.mark.parametrize(
    "name", ["KIPUKA_CONFIG", "KIPUKA_PORT", "KIPUKA_PORT_8443_TCP_ADDR", "kipuka_a__b", "OTHER__X"]
)
def test_variables_that_are_not_overrides_are_left_alone(tmp_path, name):
    """RULES K6: KIPUKA_CONFIG names the file; platforms set KIPUKA_PORT for a service of that name."""
    read = document(tmp_path, **{name: "x"})
    assert (read.values, read.problems) == ({}, ())


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        pytest.param("KIPUKA___LISTEN", "it does not name a section and a key", id="no section"),
        pytest.param("KIPUKA_SERVER__", "it does not name a section and a key", id="no key"),
        pytest.param("KIPUKA_CA__7__ID", "ca has no item 7", id="no such item"),
        pytest.param("KIPUKA_CA__X__ID", "ca has no item x", id="not a number"),
        pytest.param("KIPUKA_SERVER__LISTEN__HOST", "server.listen is a value, not a section", id="below a value"),
    ],
)
def test_a_variable_that_names_no_key_is_a_problem_of_that_variable(tmp_path, name, problem):
    text = '[server]\nlisten = "a:1"\n[[ca]]\nid = "a"\n'
    (found,) = document(tmp_path, text, **{name: "x"}).problems
    assert (found.file, found.problem) == (f"environment variable {name}", problem)


def test_problems_of_a_variables_value_name_the_variable(tmp_path):
    read = document(tmp_path, '[server]\nnode = "a"\n', KIPUKA_SERVER__LISTEN="x")
    assert read.origin(("server", "listen")) == "environment variable KIPUKA_SERVER__LISTEN"
    assert read.origin(("server", "node")) == str(tmp_path / "kipuka.toml")
    assert read.origin(("server",)) == str(tmp_path / "kipuka.toml")


def test_a_section_that_only_a_variable_made_is_that_variables(tmp_path):
    read = document(tmp_path, KIPUKA_OTP__KEY="x")
    assert read.origin(("otp", "missing")) == "environment variable KIPUKA_OTP__KEY"
