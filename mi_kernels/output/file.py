"""Publishes an output that is one file, NAME.safetensors, by one rename, like `folder` publishes a model folder."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..checkpoint.record import SINGLE
from ..errors import OutputError
from .folder import OutputFolder


class OutputFile(OutputFolder):
    """Context manager: as `OutputFolder`, for the file `out`. The only file of the model is what `publish` moves.

        .NAME.safetensors.mi-kernels-work/
            model/model.safetensors            becomes `out`
            journal

    Example:
        >>> import os, tempfile
        >>> from mi_kernels.output.file import OutputFile
        >>> out = os.path.join(tempfile.mkdtemp(), "out.safetensors")
        >>> with OutputFile(out) as file:
        ...     file.prepare()
        ...     file.write_file("model.safetensors", b"")
        ...     file.publish()
        >>> os.listdir(os.path.dirname(out))
        ['out.safetensors']
    """

    single_file = True

    @property
    def _item(self) -> str:
        return os.path.join(self.staged, SINGLE)

    def _occupied(self) -> bool:
        return os.path.lexists(self.path)

    def protect(self, inputs: Iterable[str]) -> None:
        """As `OutputFolder.protect`. Raises OutputError also if the output is a hard link to one of `inputs`."""
        given = list(inputs)
        super().protect(given)
        for item in given:
            if os.path.exists(self.path) and os.path.exists(item) and os.path.samefile(self.path, item):
                raise OutputError(
                    f"{self.given}: is a hard link to the input {item}",
                    "Choose another output: inputs are never written.",
                )

    def published_path(self, name: str) -> str:
        return self.path

    def _check_present(self) -> None:
        if not os.path.isfile(self.path):
            raise OutputError(f"{self.given}: exists and is not a file", "Choose another output.")
        if not self._overwrite:
            raise OutputError(f"{self.given}: exists", "Choose another output, or pass `overwrite=True`.")


def output_at(out: str | os.PathLike[str], inputs: Iterable[str] = (), overwrite: bool = False) -> OutputFolder:
    """Returns the output at `out`: one file if the name ends with .safetensors, otherwise a model folder.

    A folder that exists stays a folder, whatever its name. A slash at the end changes nothing.

    Raises:
        OutputError: see `OutputFolder`.
    """
    given = os.fspath(out)
    name = given.rstrip(os.sep)
    if name.endswith(".safetensors") and not os.path.isdir(name):
        return OutputFile(name, inputs, overwrite)
    return OutputFolder(given, inputs, overwrite)
