"""Errors of files, in words that say what can be done about them."""

import contextlib
import errno
import os
from collections.abc import Generator
from pathlib import Path

ROOM = "make room, and give the same command again"
RIGHTS = "give a place where this may be read and written, by {}"
IN_THE_WAY = "move what is in the way, or give another {}"
ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), ROOM),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), RIGHTS),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR), IN_THE_WAY),
    errno.ENAMETOOLONG: "give a shorter {}",
}
OTHERWISE = "give the same command again, or another {}"


@contextlib.contextmanager
def advised(place: Path, options: str = "--out or --name") -> Generator[None]:
    """Inside, an error of a file becomes one that says what can be done about it.

    Args:
        place: what an error is about that names no file.
        options: what of the command line gives another place.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:  # it is in words already
            raise
        path = os.fsdecode(error.filename or place)
        advice = ADVICE.get(error.errno, OTHERWISE).format(options)
        raise OSError(f"{path!r}: {error.strerror}; {advice}") from error
