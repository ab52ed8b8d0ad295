"""What is read of a keytab, and what is said of a file that is none."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kipuka_auth_gssapi.keytab import KeytabEntry, KeytabError, loose_mode, read_keytab


def counted(text):
    return struct.pack(">H", len(text)) + text


def entry(*components, realm=b"EXAMPLE.COM", version=3, kind=18, whole=None):
    content = struct.pack(">H", len(components)) + counted(realm) + b"".join(map(counted, components))
    content += struct.pack(">IIBH", 1, 0, version & 0xFF, kind) + counted(bytes(32))
    if whole is not None:
        content += struct.pack(">I", whole)
    return struct.pack(">i", len(content)) + content


HOLE = struct.pack(">i", -10) + bytes(10)


def read(tmp_path, content):
    file = tmp_path / "a.keytab"
    file.write_bytes(content)
    return read_keytab(file)


def test_entries_are_read_holes_are_passed_over(tmp_path):
    content = (
        b"\x05\x02" + entry(b"HTTP", b"a") + HOLE + entry(b"x", kind=23, version=1, whole=300) + struct.pack(">i", 0)
    )
    first, second = read(tmp_path, content)
    assert first == KeytabEntry(principal="HTTP/a@EXAMPLE.COM", version=3, encryption_type=18)
    assert second == KeytabEntry(principal="x@EXAMPLE.COM", version=300, encryption_type=23)
    assert (first.is_weak, second.is_weak) == (False, True)
    assert (first.encryption, second.encryption) == ("aes256-cts-hmac-sha1-96", "arcfour-hmac")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not a keytab"),
        (b"\x05\x01", "is not a keytab"),
        (b"-----BEGIN", "is not a keytab"),
        (b"\x05\x02" + entry(b"a")[:-5], "is not a whole keytab"),
        (b"\x05\x02\x00\x00\x00\x02\x00\x07", "is not a whole keytab"),
    ],
)
def test_what_is_no_keytab_is_told(tmp_path, content, problem):
    with pytest.raises(KeytabError, match=problem):
        read(tmp_path, content)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(KeytabError, match="is not there"):
        read_keytab(tmp_path / "none")
    with pytest.raises(KeytabError, match="cannot be read"):
        read_keytab(tmp_path)


@given(st.binary(max_size=200))
def test_no_content_raises_anything_else(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "any.keytab"
    for start in (b"\x05\x02", b"\x05\x02" + entry(b"HTTP", b"a")[:40]):
        file.write_bytes(start + content)
        with contextlib.suppress(KeytabError):
            read_keytab(file)


@pytest.mark.parametrize(("mode", "loose"), [(0o600, None), (0o640, None), (0o644, "0644"), (0o620, "0620")])
def test_a_mode_that_lets_others_in_is_loose(tmp_path, mode, loose):
    file = tmp_path / "a.keytab"
    file.touch()
    file.chmod(mode)
    assert loose_mode(file) == loose
    assert loose_mode(tmp_path / "none") is None


@pytest.mark.kerberos
def test_the_library_and_this_reader_agree(realm):
    """Over a keytab that MIT's own tool wrote."""
    found = {(entry.principal, entry.version) for entry in read_keytab(realm.keytab)}
    assert found == {
        ("HTTP/localhost@EXAMPLE.COM", 2),
        ("host/localhost@EXAMPLE.COM", 2),
        ("HTTP/rekeyed@EXAMPLE.COM", 2),
    }
