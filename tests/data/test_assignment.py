"""The table of subjects: what it may hold, and what each mistake says."""

from __future__ import annotations

import pytest

from cerebro.data.subjects.assignment import Assignment, read_assignment
from cerebro.errors import InputError

KNOWN = ("S01", "S02", "S03")


def read(tmp_path, content):
    path = tmp_path / "subjects.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_assignment(str(path), KNOWN)


def test_splits_and_groups_in_any_order_of_columns(tmp_path):
    table = read(tmp_path, "group,age, subject ,split\r\nhome,61,S02, valid\r\n\r\n,,S01,\r\n")
    assert table == {"S02": Assignment("valid", "home"), "S01": Assignment(None, None)}


def test_a_byte_order_mark_and_missing_columns(tmp_path):
    assert read(tmp_path, "\ufeffsubject\nS03\n") == {"S03": Assignment(None, None)}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "first line is ''.*subject,split,group"),
        ("S01,train\n", "first line is 'S01,train'.*subject,split,group"),
        ("subject;split\nS01;train\n", "separated by commas"),
        ("subject,split\n,train\n", "line 2: there is no subject"),
        ("subject,split\nS01,train\nS9,train\n", "line 3: there is no subject 'S9' in the data"),
        ("subject,split\nS01,\nS02,\nS01,\n", "line 4: subject 'S01' is already in line 2"),
        ("subject,split\nS01,dev\n", "line 2: the split is 'dev'; it must be train, valid, test"),
        ("subject,split,group\nS01,train,a\nS02,test,a\n", "line 3: group 'a' is on two sides"),
        ("subject\nS01,train\n", "line 2: 2 values, while the head has 1"),
        (b"subject\nS\xff\n", "not CSV in UTF-8"),
        ('subject\n"S01\n', "not CSV"),
    ],
)
def test_mistakes(tmp_path, content, says):
    with pytest.raises(InputError, match=says):
        read(tmp_path, content)


def test_a_missing_table(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv cannot be read: No such file"):
        read_assignment(str(tmp_path / "none.csv"), KNOWN)
