"""Text of the standard library: prose and code apart, offsets that lead back to the file."""

import sysconfig
from itertools import pairwise
from pathlib import Path

from mnemoscope.embedded.texts import read_segments, split_source

SOURCE = f'''"""{"A module of prose. " * 20}"""
import os

{"x = os.name" + chr(10)}
def f():
    """{"What it does, in words. " * 20}"""
    return {" + ".join(["value"] * 60)}
'''


def test_docstrings_are_prose_and_statements_code():
    spans = split_source(SOURCE)
    prose = [SOURCE[start:end] for start, end, genre in spans if genre == "prose"]
    code = "".join(SOURCE[start:end] for start, end, genre in spans if genre == "code")
    assert prose == ["A module of prose. " * 20, "What it does, in words. " * 20]
    assert "value + value" in code
    assert "in words" not in code


def test_long_runs_of_comment_lines_are_prose():
    comments = "# four lines of comment that say why the thing below is so\n" * 4
    spans = split_source("y = 1\n" * 40 + comments + "z = 2\n" * 40)
    assert [(end - start) for start, end, genre in spans if genre == "prose"] == [len(comments)]
    assert next(start for start, _, genre in spans if genre == "prose") == 240


def test_segments_are_slices_of_their_files_without_overlap():
    library = Path(sysconfig.get_path("stdlib"))
    segments = read_segments(limit=300)
    for segment in segments:
        text = (library / segment.document).read_text(encoding="ascii")
        assert text[segment.start : segment.start + len(segment.text)] == segment.text
    for one, other in pairwise(segments):
        if one.document == other.document:
            assert one.start + len(one.text) <= other.start
    assert {segment.genre for segment in segments} == {"prose", "code"}
