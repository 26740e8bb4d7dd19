"""What user code prints: kept in bounds, whoever prints and however much."""

from __future__ import annotations

import io
import threading

import pytest

from cerebro.worker.output_capture import CHARACTERS, OutputCapture, clip, last_lines


def test_the_end_of_what_was_printed_is_kept_and_all_of_it_passed_on():
    through = io.StringIO()
    capture = OutputCapture(through)
    for number in range(5_000):
        print(number, file=capture)
    assert len(capture.text()) == CHARACTERS
    assert sum(map(len, capture._parts)) < 2 * CHARACTERS
    assert capture.text().endswith("4998\n4999\n")
    assert through.getvalue().startswith("0\n1\n")
    capture.write("y" * 3 * CHARACTERS)
    assert capture.text() == "y" * CHARACTERS


def test_what_is_no_text_is_refused_and_not_kept():
    capture = OutputCapture(None)
    with pytest.raises(TypeError, match="must be str, not bytes"):
        capture.write(b"bytes")
    assert capture.text() == ""


def test_threads_may_print_at_the_same_time():
    capture = OutputCapture(None)

    def many():
        for _ in range(3_000):
            capture.write("some text\n")

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert capture.text() == ("some text\n" * CHARACTERS)[-CHARACTERS:]


def test_last_lines_and_clip():
    assert last_lines("a\nb\nc\n", 2) == "b\nc"
    assert clip("short", 10) == "short"
    assert clip("a" * 50 + "b" * 50, 10) == "aaaaa\n[90 characters left out]\nbbbbb"


def test_files_that_were_sent_have_the_names_that_users_know():
    capture = OutputCapture(None)
    print('  File "<sent 0123abcd>/home/me/behavior.py", line 12, in f', file=capture)
    assert capture.text() == '  File "/home/me/behavior.py", line 12, in f\n'


@pytest.mark.parametrize(
    ("encoding", "passed"), [("ascii", rb"\xfc\ud800"), ("utf-8", b"\xc3\xbc\\ud800")]
)
def test_a_letter_that_the_stream_below_cannot_encode_is_escaped_there(encoding, passed):
    raw = io.BytesIO()
    capture = OutputCapture(io.TextIOWrapper(raw, encoding))
    assert capture.write("ü\ud800") == 2
    capture.flush()
    assert raw.getvalue() == passed
    assert capture.text() == "ü\\ud800"
