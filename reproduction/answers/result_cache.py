"""Results by row, kept in a file as they come, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from coldframe.errors import ArtifactError
from coldframe.storage.files import writing
from coldframe.tasks.task import content_hash


class ResultCache:
    """Rows of results in a JSON lines file whose name tells all that they depend on.

    The first line holds the settings, every other line one row with its ``id``. A line that a kill left unfinished
    is dropped and measured again.

    Args:
        folder: Where the file stands; made if need be.
        name: What the file's name begins with.
        settings: All that a row depends on besides its id: other settings make another file.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> ResultCache(Path(folder), "demo", {"n": 1}).add([{"id": "a", "x": 0.5}])
        >>> ResultCache(Path(folder), "demo", {"n": 1}).rows, ResultCache(Path(folder), "demo", {"n": 2}).rows
        ({'a': {'id': 'a', 'x': 0.5}}, {})
    """

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        head = json.dumps(settings, sort_keys=True, ensure_ascii=False)
        self.path = folder / f"{name}-{content_hash(head)[:10]}.jsonl"
        self.rows: dict[str, dict[str, Any]] = {}
        if not self.path.is_file():
            with writing(self.path), open(self.path, "w", encoding="utf-8") as file:
                file.write(head + "\n")
            return
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        first, *lines = whole.decode("utf-8").split("\n")[:-1] or [""]
        if first != head:
            if first:
                raise ArtifactError(f"{self.path} was made with other settings", fix="Delete it and try again.")
            whole = head.encode() + b"\n"
        if whole != data:
            with writing(self.path):
                if first:
                    os.truncate(self.path, len(whole))  # what is whole stays where it is
                else:
                    self.path.write_bytes(whole)
        try:
            self.rows = {row["id"]: row for row in map(json.loads, lines)}
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{self.path} is damaged: {error}", fix="Delete it and try again.") from error

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows, on the disk when this returns."""
        new = [dict(row) for row in rows]
        with writing(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in new))
            file.flush()
            os.fsync(file.fileno())
        self.rows.update({row["id"]: row for row in new})

    def fill(
        self,
        sizes: Mapping[str, int],
        measure: Callable[[list[str]], Sequence[Mapping[str, Any]]],
        batch_tokens: int,
        report: Callable[[int, int], None] | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Measure what is missing, in batches of like length, and give all rows that were asked for.

        Args:
            sizes: Tokens of each row, by id.
            measure: From ids to rows of results.
            batch_tokens: Tokens of a batch, pads included; a row that is longer is a batch of its own.
            report: Told how many rows are there, and how many there will be.
        """
        done = sum(name in self.rows for name in sizes)
        for batch in batches({name: n for name, n in sizes.items() if name not in self.rows}, batch_tokens):
            self.add(measure(batch))
            done += len(batch)
            if report is not None:
                report(done, len(sizes))
        return {name: self.rows[name] for name in sizes}


def batches(sizes: Mapping[str, int], tokens: int) -> list[list[str]]:
    """Rows of like length together, the longest first, so that what does not fit into memory fails at once.

    >>> batches({"a": 5, "b": 1, "c": 4, "d": 2}, 10)
    [['a', 'c'], ['d', 'b']]
    """
    groups: list[list[str]] = []
    longest = 0
    for name, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        if not groups or longest * (len(groups[-1]) + 1) > tokens:
            groups.append([])
            longest = size
        groups[-1].append(name)
    return groups
