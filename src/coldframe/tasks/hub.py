"""Data sets of the Hugging Face hub, read from the Parquet files that the hub makes of each of them."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from pathlib import Path

from coldframe.errors import DataError
from coldframe.tasks.rows import read_table
from coldframe.tasks.table import MAX_ROWS, PARTS, Problems, Row, Table

REVISION = "refs/convert/parquet"

MAX_FILES = 32
"""Most Parquet files read of one data set."""


def read_hub(data: str) -> Table:
    """Rows of a hub data set, each with the split it is in (if the set has train and test).

    Args:
        data: ``owner/name``, or ``owner/name:configuration`` where there are several.

    Raises:
        DataError: No network, no such data set, no Parquet form, too large, or an unnamed configuration.
    """
    from huggingface_hub import HfApi, hf_hub_download

    name, _, configuration = data.partition(":")
    try:
        revision = HfApi().dataset_info(name, revision=REVISION).sha
        paths = HfApi().list_repo_files(name, repo_type="dataset", revision=revision)
        chosen = choose(paths, name, configuration)
        files = [
            (p, hf_hub_download(name, p, repo_type="dataset", revision=revision)) for ps in chosen.values() for p in ps
        ]
    except DataError:
        raise
    except Exception as error:  # the hub client lets errors of several HTTP libraries through
        raise DataError(
            f"Cannot get {name!r} from the Hugging Face hub ({type(error).__name__}: {str(error).splitlines()[0]})",
            fix="Check the name and the network, or download it and pass a file.",
        ) from error
    rows: list[Row] = []
    columns: tuple[str, ...] = ()
    counts: defaultdict[str, int] = defaultdict(int)
    parts = {path: PARTS[split] for split, members in chosen.items() for path in members if split in PARTS}
    split_given = {"train", "test"} <= set(parts.values())
    for path, local in files:
        table = read_table(Path(local), Problems())
        columns = columns or table.columns
        part = parts.get(path, "") if split_given else ""
        for row in table.rows:
            counts[part] += 1  # numbered through all files of a split
            rows.append(dataclasses.replace(row, number=counts[part], part=part))
        if len(rows) > MAX_ROWS:
            raise DataError(f"{name} has too many rows", expected=f"at most {MAX_ROWS:,}")
    return Table(data, columns, tuple(rows), {"hub": data, "revision": str(revision)})


def choose(paths: list[str], name: str, configuration: str) -> dict[str, list[str]]:
    """The Parquet files to read, by split; paths are ``configuration/split/number.parquet``.

    >>> choose(["default/train/0000.parquet", "default/test/0000.parquet"], "a/b", "")
    {'test': ['default/test/0000.parquet'], 'train': ['default/train/0000.parquet']}
    """
    configurations: dict[str, dict[str, list[str]]] = {}
    for path in sorted(paths):
        pieces = path.split("/")
        if len(pieces) == 3 and path.endswith(".parquet"):
            configurations.setdefault(pieces[0], {}).setdefault(pieces[1].removeprefix("partial-"), []).append(path)
    if not configurations:
        raise DataError(f"{name} has no Parquet form on the hub", fix="Download it and pass a file.")
    if not configuration:
        if len(configurations) > 1 and "default" not in configurations:
            fix = f"Name one, as in {name}:{next(iter(configurations))}."
            raise DataError(f"{name} has several configurations", got=", ".join(configurations), fix=fix)
        configuration = "default" if "default" in configurations else next(iter(configurations))
    if configuration not in configurations:
        raise DataError(f"{name} has no configuration {configuration!r}", expected=", ".join(configurations))
    files = sum(map(len, configurations[configuration].values()))
    if files > MAX_FILES:
        raise DataError(f"{name} is too large", got=f"{files} files", expected=f"at most {MAX_FILES}")
    return configurations[configuration]
