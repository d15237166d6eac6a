"""Rows of a file, each with its line number; nothing unreadable is passed on in silence."""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from pathlib import Path

from coldframe.config import local_path
from coldframe.errors import DataError
from coldframe.tasks.json_rows import read_array, read_lines
from coldframe.tasks.separated import read_separated
from coldframe.tasks.sheets import read_excel, read_parquet
from coldframe.tasks.table import MAX_BYTES, Problems, Row, Table

PLAIN = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
SUFFIXES = (*PLAIN, *(f"{suffix}.gz" for suffix in PLAIN), ".parquet", ".xlsx")
"""The endings of files that hold tables."""


def read_table(path: str | Path, problems: Problems, suffix: str | None = None) -> Table:
    r"""Read CSV, TSV, JSON lines, a JSON array (all of them packed with gzip, too), Parquet or Excel, by the ending.

    Args:
        path: The file; ``~`` is the home folder. Text must be UTF-8 (a byte-order mark is tolerated).
        problems: Gets the rows that cannot be read, and what is to be said about the file.
        suffix: Read it as a file that ends so.

    Raises:
        DataError: If the file is absent, too large, empty, not UTF-8 (with the line), or not of the format
            its ending names. These are raised even where problems are skipped.
        MissingExtraError: Parquet without pyarrow, Excel without openpyxl.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a.csv"
        ...     _ = path.write_text("smiles,label\nCCO,1\n")
        ...     read_table(path, Problems()).rows[0]
        Row(number=2, values={'smiles': 'CCO', 'label': '1'}, part='')
    """
    path = local_path(path)
    suffix = suffix or suffix_of(path)
    if suffix not in SUFFIXES:
        raise DataError(f"{path.name} is of no known kind", got=suffix or "no ending", expected=", ".join(SUFFIXES))
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(f"{path} is too large", got=f"{size:,} bytes", expected=f"at most {MAX_BYTES:,}")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read {path} ({error.strerror})", fix="Check the path.") from error
    columns, rows = parse(data, suffix, path.name, problems)
    if not rows:
        raise DataError(f"{path.name} has no usable rows", fix="Check that it is the right file.")
    source = {"file": path.name, "sha256": hashlib.sha256(data).hexdigest()}
    return Table(path.name, tuple(columns), tuple(rows), source)


def parse(data: bytes, suffix: str, name: str, problems: Problems) -> tuple[list[str], list[Row]]:
    """Bytes to column names and rows; ``suffix`` is one of ``SUFFIXES``, ``name`` is for messages."""
    if suffix == ".parquet":
        return read_parquet(data, name)
    if suffix == ".xlsx":
        return read_excel(data, name)
    if suffix.endswith(".gz"):
        data, suffix = _unpacked(data, name), suffix.removesuffix(".gz")
    text = _decode(data, name)
    if suffix in (".csv", ".tsv"):
        return read_separated(text, "\t" if suffix == ".tsv" else ",", name, problems)
    return (read_array if suffix == ".json" else read_lines)(text, name, problems)


def suffix_of(path: Path) -> str:
    """What a file's name ends in: one of ``SUFFIXES``, if it is a table.

    >>> suffix_of(Path("a/moods.CSV.gz")), suffix_of(Path("notes.txt"))
    ('.csv.gz', '.txt')
    """
    name = path.name.lower()
    return max((suffix for suffix in SUFFIXES if name.endswith(suffix)), key=len, default=path.suffix.lower())


def stem_of(path: Path) -> str:
    """The name of a file without what :func:`suffix_of` gives.

    >>> stem_of(Path("a/moods.csv.gz"))
    'moods'
    """
    return path.name[: len(path.name) - len(suffix_of(path))]


def _unpacked(data: bytes, name: str) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            plain = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name} cannot be unpacked ({error})", fix="Check that the file is whole.") from error
    if len(plain) > MAX_BYTES:
        raise DataError(f"{name} is too large", got="more when unpacked", expected=f"at most {MAX_BYTES:,} bytes")
    return plain


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{name}, line {line}: not UTF-8", got=f"byte 0x{data[error.start]:02x}", fix="Save the file as UTF-8."
        ) from error
