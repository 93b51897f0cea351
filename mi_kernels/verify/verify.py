"""Is a model folder what its checksums say, and the merge that it says it is? What is wrong is named."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ..checkpoint.files import read_file
from ..checksums.damage import Damage, differences, layout_within
from ..checksums.folder import file_sizes, measure, record_folder
from ..checksums.record import NAME, Record, ShardSum, mended
from ..errors import CheckpointError, MIKernelsError, OutputError
from ..system.atomic import write_file
from ..system.faults import problem, remedy
from ..system.progress import progress_bar

if TYPE_CHECKING:
    from .recompute import Recomputation

_MAX_RECORD = 256 << 20  # bytes; the largest models' have a tenth of it

Progress = bool | Callable[[int, int], None]


@dataclass
class Verification:
    """What `verify_checkpoint` found.

    Attributes:
        out: the folder.
        damage: what its checksums say is wrong.
        files, bytes: how many were read for that; 0 where only the merge was done again.
        seconds: from the first check to the last one.
        recomputed: what doing the merge again found, where that was asked for.
        notes: what else is worth a sentence.
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
        """True where nothing is wrong."""
        return not self.damage and (self.recomputed is None or self.recomputed.right)

    @property
    def gigabytes_per_second(self) -> float:
        """Bytes read for the checksums, in 10^9 bytes per second."""
        return self.bytes / self.seconds / 1e9 if self.seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        found = {**asdict(self), "right": self.right, "gigabytes_per_second": round(self.gigabytes_per_second, 3)}
        if self.recomputed is not None:
            found["recomputed"] = self.recomputed.as_dict()
        return found


def verify_checkpoint(
    out: str | os.PathLike[str],
    recompute: Sequence[str | os.PathLike[str]] | None = None,
    *,
    threads: int | None = None,
    progress: Progress = True,
) -> Verification:
    """Reads every file of the folder `out` again and compares it with the checksums recorded in it.

    Args:
        recompute: also does the merge again that mi_kernels.json says, in memory, and compares every byte. These are
            the models, as folders or Hub ids, in the order in which they stand there (`base` first, where there is
            one); an empty list takes those named there. A folder without checksums is taken too, then.
        threads: computing threads; None for all cores.
        progress: a bar on a terminal's stderr, or a function called with (bytes done, bytes in all).

    Raises:
        CheckpointError: `out` has no record of checksums, a file cannot be read.
        MIKernelsError: the merge cannot be done again; what is wrong, and the remedy.
    """
    root = os.fspath(out)
    if not os.path.isdir(root):
        raise CheckpointError(f"{root}: no such folder", "Give the folder of a model.")
    path = os.path.join(root, NAME)
    if os.path.exists(path):
        found = _check(root, path, threads, progress)
    elif recompute is None:
        raise CheckpointError(
            f"{path}: missing, so there is nothing to compare with",
            f"`mi-kernels verify {root} --record` writes it, for the files as they are now.",
        )
    else:
        found = Verification(root, notes=[f"{path} is missing: only the merge is checked"])
    if recompute is not None:
        from .recompute import recompute_merge

        try:
            found.recomputed = recompute_merge(root, recompute, threads, progress)
        except MIKernelsError as error:
            if not found.damage:
                raise
            # What is damaged may be the reason, and is to be told all the same.
            found.notes.append(f"the merge could not be done again: {error.problem}")
    return found


def record_checksums(
    out: str | os.PathLike[str], *, overwrite: bool = False, threads: int | None = None, progress: Progress = True
) -> Verification:
    """Writes the checksums of a model folder's files as they are now, for models that were not made with them.

    Raises:
        OutputError: it has a record already, and `overwrite` is False; or it cannot be written.
        CheckpointError: a file cannot be read, or is not valid safetensors.
    """
    started = time.perf_counter()
    root = os.fspath(out)
    path = os.path.join(root, NAME)
    if os.path.lexists(path) and not overwrite:
        raise OutputError(f"{path}: is there already", "Verify the folder with it, or pass --overwrite.")
    sizes = file_sizes(root)
    with progress_bar(progress, sum(n for name, n in sizes.items() if name != NAME)) as on_bytes:
        record = record_folder(root, threads, on_bytes)
    try:
        write_file(path, record.encode())
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {problem(error)}", remedy(error)) from error
    sums = _all_sums(record)
    return Verification(root, [], len(sums), sum(s.size for s in sums.values()), time.perf_counter() - started)


def _check(root: str, path: str, threads: int | None, progress: Progress) -> Verification:
    found = Verification(root)
    started = time.perf_counter()
    record = _read_record(path, found)
    if record is not None:
        _compare(found, _all_sums(record), file_sizes(root), threads, progress)
    found.seconds = time.perf_counter() - started
    return found


def _read_record(path: str, found: Verification) -> Record | None:
    """The record, mended where one bit of it is wrong; None where more is."""
    content = read_file(path, _MAX_RECORD)
    wrong = mended(content)
    if wrong is None:
        return Record.decode(content, path)
    if wrong.content is not None:
        with suppress(
            CheckpointError
        ):  # damage to many bits may look like one, and what comes of mending it is no record
            record = Record.decode(wrong.content, path)
            found.damage.append(Damage(NAME, "bit", None, wrong.byte, wrong.byte + 1, wrong.byte, wrong.bit))
            found.notes.append(f"{NAME} was mended in memory, and everything else compared with it")
            return record
    found.damage.append(Damage(NAME, "bytes", None, 0, len(content), 0))
    found.notes.append(f"{NAME} is damaged beyond mending: nothing else can be compared with it")
    return None


def _all_sums(record: Record) -> dict[str, ShardSum]:
    """A small file is a shard that is all header."""
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
    with progress_bar(progress, found.bytes) as on_bytes:
        measured = measure(found.out, layouts, threads, on_bytes)
    for name, sums in zip(present, measured):
        found.damage += differences(name, recorded[name], sums, sizes[name])
