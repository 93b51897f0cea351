"""Check a model folder against its recorded checksums, and optionally against the merge computed again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ..checkpoint.files import read_file
from ..checksums.damage import Damage, differences, layout_within
from ..checksums.folder import file_sizes, measure, record_folder
from ..checksums.record import NAME, Record, ShardSum, repaired
from ..errors import ArgumentError, CheckpointError, MIKernelsError, OutputError
from ..system.arguments import checked_path, checks_names
from ..system.atomic import write_file
from ..system.faults import problem, remedy
from ..system.progress import Progress, progress_bar

if TYPE_CHECKING:
    from .recompute import Recomputation

_MAX_RECORD = 256 << 20  # bytes: ten times the record of the largest models


@dataclass
class Verification:
    """The result of `verify_checkpoint` and `record_checksums`.

    Attributes:
        out: the folder.
        damage: one entry for each difference from the recorded checksums: file, tensor, bytes, and the flipped bit if
            one bit explains the difference.
        files, bytes: the number of files and bytes read for the checksums; 0 if only the merge was computed again.
        seconds: the time of the checksums.
        recomputed: the result of computing the merge again, or None if this was not requested.
        notes: sentences for the user about anything unusual.

    Example:
        >>> import mi_kernels
        >>> _ = mi_kernels.lerp_checkpoint("instruct", "thinking", "checked", lam=0.8, progress=False)
        >>> found = mi_kernels.verify_checkpoint("checked", progress=False)
        >>> found.right, found.damage, found.recomputed
        (True, [], None)
    """

    out: str
    damage: list[Damage] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    recomputed: Recomputation | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def right(self) -> bool:
        """True if there is no damage and, if the merge was computed again, no difference."""
        return not self.damage and (self.recomputed is None or self.recomputed.right)

    @property
    def gigabytes_per_second(self) -> float:
        """The speed of reading for the checksums, in 10^9 bytes per second."""
        return self.bytes / self.seconds / 1e9 if self.seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Returns the result in JSON types: all attributes, `right` and `gigabytes_per_second`."""
        found = {**asdict(self), "right": self.right, "gigabytes_per_second": round(self.gigabytes_per_second, 3)}
        if self.recomputed is not None:
            found["recomputed"] = self.recomputed.as_dict()
        return found


@checks_names
def verify_checkpoint(
    out: str | os.PathLike[str],
    recompute: Sequence[str | os.PathLike[str]] | None = None,
    *,
    threads: int | None = None,
    progress: Progress = True,
) -> Verification:
    """Reads every file of a model folder and compares it with the recorded checksums (CRC-32C, RFC 3720).

    Every merge records the checksums of its files in mi_kernels.checksums.json. For other folders, `record_checksums`
    records them. Damage is part of the result, not an exception.

    Args:
        out: the model folder.
        recompute: if not None, also repeats the merge that mi_kernels.json records, in memory, and compares every byte
            of the shards, the index and the copied files. The list holds the merged models as folders or Hub ids, in
            the order of mi_kernels.json (`base` first if there is one); an empty list uses the models that
            mi_kernels.json names. With `recompute`, the folder may lack checksums.
        threads: the number of computing threads; None for all cores.
        progress: True for a bar on a terminal or in a notebook, "lines" for a line every five seconds elsewhere too,
            False for none, or a function that is called with (bytes done, bytes in total).

    Returns:
        A Verification; `right` is True if nothing is wrong.

    Raises:
        CheckpointError: `out` is not a folder, it has no recorded checksums, or a file cannot be read.
        MIKernelsError: the merge cannot be computed again. The message names the cause and the remedy.

    Example:
        >>> import mi_kernels
        >>> _ = mi_kernels.lerp_checkpoint("instruct", "thinking", "proved", lam=0.8, progress=False)
        >>> mi_kernels.verify_checkpoint("proved", progress=False).right
        True
        >>> mi_kernels.verify_checkpoint("proved", ["instruct", "thinking"], progress=False).recomputed.differences
        []
    """
    root = checked_path(out, "out", "the path of a model folder")
    if recompute is not None:
        recompute = _models(recompute)
    _refuse_file(root)
    if not os.path.isdir(root):
        raise CheckpointError(f"{root}: no such folder", "Pass the path of a model folder.")
    path = os.path.join(root, NAME)
    if os.path.exists(path):
        found = _check(root, path, threads, progress)
    elif recompute is None:
        raise CheckpointError(
            f"{path}: missing, so there are no checksums to compare with",
            f"To record the checksums of the current files, run `mi-kernels verify {root} --record`.",
        )
    else:
        found = Verification(root, notes=[f"{path} is missing: the files are compared with the merge only"])
    if recompute is not None:
        from .recompute import recompute_merge

        try:
            found.recomputed = recompute_merge(root, recompute, threads, progress)
        except MIKernelsError as error:
            if not found.damage:
                raise
            # The damage may be the cause, and must be reported in any case.
            found.notes.append(f"the merge could not be computed again: {error.problem}")
    return found


def _models(given: Any) -> list[str]:
    if isinstance(given, (str, bytes, os.PathLike, Mapping)) or not isinstance(given, Iterable):
        raise ArgumentError(
            f"recompute is {given!r:.80}, which is not a list of models",
            "Give a list of folders or Hub ids, or [] for the models that mi_kernels.json names.",
        )
    return [checked_path(model, f"recompute[{i}]") for i, model in enumerate(given)]


@checks_names
def record_checksums(
    out: str | os.PathLike[str], *, overwrite: bool = False, threads: int | None = None, progress: Progress = True
) -> Verification:
    """Records the checksums of the current files of a model folder, for models that mi_kernels did not write.

    Writes mi_kernels.checksums.json into the folder, atomically. No other file changes.

    Args:
        out: the model folder.
        overwrite: replace an existing record.
        threads, progress: as in `verify_checkpoint`.

    Returns:
        A Verification with the number of files and bytes read.

    Raises:
        OutputError: the folder has recorded checksums and `overwrite` is False, or the file cannot be written.
        CheckpointError: a file cannot be read, or is not valid safetensors.

    Example:
        >>> from mi_kernels.verify.verify import record_checksums, verify_checkpoint
        >>> _ = record_checksums("instruct", overwrite=True, progress=False)
        >>> verify_checkpoint("instruct", progress=False).right
        True
    """
    started = time.perf_counter()
    root = checked_path(out, "out", "the path of a model folder")
    _refuse_file(root)
    path = os.path.join(root, NAME)
    if os.path.lexists(path) and not overwrite:
        raise OutputError(
            f"{path}: already exists",
            f"Check the files with `mi-kernels verify {root}`, or pass `overwrite=True` to replace the record.",
        )
    sizes = file_sizes(root)
    total = sum(n for name, n in sizes.items() if name != NAME)
    with progress_bar(progress, total, "recording checksums") as on_bytes:
        record = record_folder(root, threads, on_bytes)
    try:
        write_file(path, record.encode())
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {problem(error)}", remedy(error)) from error
    sums = _all_sums(record)
    return Verification(root, [], len(sums), sum(s.size for s in sums.values()), time.perf_counter() - started)


def _refuse_file(root: str) -> None:
    """Raises CheckpointError if `root` is a file: its checksums would have no place."""
    if os.path.isfile(root):
        raise CheckpointError(
            f"{root}: is one file, and checksums are recorded for folders only",
            "Use a model folder. The checksums of a merge into a file are not kept.",
        )


def _check(root: str, path: str, threads: int | None, progress: Progress) -> Verification:
    found = Verification(root)
    started = time.perf_counter()
    record = _read_record(path, found)
    if record is not None:
        _compare(found, _all_sums(record), file_sizes(root, record.subfolders), threads, progress)
    found.seconds = time.perf_counter() - started
    return found


def _read_record(path: str, found: Verification) -> Record | None:
    """Reads the record of checksums, and corrects one flipped bit in memory. Returns None if more bits are wrong."""
    content = read_file(path, _MAX_RECORD)
    wrong = repaired(content)
    if wrong is None:
        return Record.decode(content, path)
    if wrong.content is not None:
        # Many wrong bits may look like one. Then the corrected content is usually not a valid record.
        with suppress(CheckpointError):
            record = Record.decode(wrong.content, path)
            found.damage.append(Damage(NAME, "bit", None, wrong.byte, wrong.byte + 1, wrong.byte, wrong.bit))
            found.notes.append(f"{NAME}: the flipped bit was corrected in memory to check the other files")
            return record
    found.damage.append(Damage(NAME, "bytes", None, 0, len(content), 0))
    found.notes.append(f"{NAME} is damaged and cannot be corrected, so no other file was checked")
    return None


def _all_sums(record: Record) -> dict[str, ShardSum]:
    """Returns the checksums of all files. A small file counts as a shard that consists of a header only."""
    return {**record.shards, **{name: ShardSum(f.size, f.crc, f, {}) for name, f in record.files.items()}}


def _compare(
    found: Verification,
    recorded: Mapping[str, ShardSum],
    sizes: Mapping[str, int],
    threads: int | None,
    progress: Progress,
) -> None:
    found.damage += [Damage(name, "missing") for name in recorded if name not in sizes]
    found.damage += [Damage(name, "extra") for name in sorted(sizes) if name not in recorded and name != NAME]
    present = [name for name in recorded if name in sizes]
    layouts = [layout_within(name, recorded[name], sizes[name]) for name in present]
    found.files, found.bytes = len(layouts), sum(y.size for y in layouts)
    with progress_bar(progress, found.bytes, "verifying") as on_bytes:
        measured = measure(found.out, layouts, threads, on_bytes)
    for name, sums in zip(present, measured):
        found.damage += differences(name, recorded[name], sums, sizes[name])
