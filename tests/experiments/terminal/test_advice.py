import re

import pytest

from experiments.terminal.advice import advised

FULL = "No space left on device"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, FULL, "x/y"), f"'x/y': {FULL}; make room, and give the same"),
        (OSError(28, FULL), f"'runs': {FULL}; make room"),
        (
            OSError(13, "Permission denied", b"x"),
            "'x': Permission denied; give a place",
        ),
        (OSError(30, "Read-only file system", "x"), "give a place where this may be"),
        (
            OSError(17, "File exists", "x"),
            "move what is in the way, or give another --a",
        ),
        (OSError(36, "File name too long", "x"), "give a shorter --archive"),
        (OSError(5, "Input/output error", "x"), "command again, or another --archive"),
        (OSError("in words"), "in words"),
    ],
)
def test_an_error_of_a_file_says_what_to_do(error, said):
    with (
        pytest.raises(OSError, match=re.escape(said)) as info,
        advised("runs", "--archive"),
    ):
        raise error
    assert "Errno" not in str(info.value)


def test_other_errors_are_left_alone():
    with pytest.raises(KeyError), advised("runs"):
        raise KeyError("x")
