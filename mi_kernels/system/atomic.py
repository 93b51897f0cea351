"""The one way to write a small file so that nobody ever sees a part of it."""

from __future__ import annotations

import os
from contextlib import suppress

from .calls import sync_folder


def write_file(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes `path` as a whole: until the last step, a reader finds the previous file, and then the new one.

    The content goes to a hidden temporary file in the same folder, `.NAME.RANDOM.part`, and is synced to the disk. One
    rename gives it its name, and the folder is synced, too: after this function returns, a crash of the machine loses
    nothing. If a step fails, `path` is unchanged and the temporary file is removed; a kill may leave it. Several
    writers of one file, on several machines too, do not disturb each other: the last rename wins.

    Args:
        path: its folder must exist. A link at `path` is replaced, not followed.

    Raises:
        OSError: the file cannot be written.

    Example:
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "run.json")
        >>> write_file(path, b"{}")
        >>> open(path, "rb").read()
        b'{}'
    """
    folder, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(folder, f".{name}.{os.urandom(4).hex()}.part")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folder(folder)
