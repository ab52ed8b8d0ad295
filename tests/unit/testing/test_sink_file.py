"""A file of audit records read at any moment of its writing, and after its writer was killed."""

from __future__ import annotations

import pytest

from kipuka.testing.records import HOSTILE, make_records
from kipuka.testing.sink_file import read_records

RECORDS = make_records(3, texts=HOSTILE[:3])
LINES = [record.to_json() for record in RECORDS]


def numbers(path):
    return [record["sequence"] for record in read_records(path)]


def test_a_file_that_is_not_there_has_no_records(tmp_path):
    assert read_records(tmp_path / "none.jsonl") == []


def test_every_text_an_event_may_have_stays_within_its_line(tmp_path):
    path = tmp_path / "audit.jsonl"
    records = make_records(len(HOSTILE), texts=HOSTILE)
    path.write_text("".join(f"{record.to_json()}\n" for record in records))
    assert [record["identity"] for record in read_records(path)] == list(HOSTILE)


@pytest.mark.parametrize("cut", range(0, len(LINES[2].encode()), 7))
def test_a_line_is_read_once_its_end_is_there(tmp_path, cut):
    path = tmp_path / "audit.jsonl"
    path.write_bytes(f"{LINES[0]}\n{LINES[1]}\n".encode() + LINES[2].encode()[:cut])
    assert numbers(path) == [1, 2]


@pytest.mark.parametrize("cut", range(1, len(LINES[1].encode()), 7))
def test_a_line_that_a_crash_tore_is_left_out_and_its_record_that_comes_again_is_read(tmp_path, cut):
    path = tmp_path / "audit.jsonl"
    path.write_bytes(f"{LINES[0]}\n".encode() + LINES[1].encode()[:cut] + f"\n{LINES[1]}\n{LINES[2]}\n".encode())
    assert numbers(path) == [1, 2, 3]
