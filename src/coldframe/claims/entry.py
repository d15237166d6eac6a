"""A published claim as a file: what the paper says, what runs here, and where in its results ours is read."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from coldframe.config import Config, check, local_path, read_mapping
from coldframe.errors import ConfigError, nearest

#: Where entries lie in the folder of the reproduction.
ENTRIES = "claims"
#: Stand in a script's words and flags for what the command was given.
MODEL, DATA = "{model}", "{data}"
#: How ours is compared with what is published.
Comparing = Literal["more", "less", "value", "ratio"]


@dataclasses.dataclass(frozen=True)
class Row(Config):
    """A published number or statement, and where ours is read.

    Args:
        claim: What is stated, in a sentence.
        source: Table, figure or section that has it.
        model: What it was measured on.
        published: The number; left out where a direction is stated without one.
        compare: What is compared, because the number belongs to another model: ``more`` or ``less`` the direction
            alone (of a difference, or against ``than``), ``value`` the number, ``ratio`` the number by factors.
        tolerance: Of ``value`` in its own units, of ``ratio`` a factor; of ``more`` and ``less`` the smallest effect
            that would count.
        than: What ``more`` and ``less`` are counted from.
        of: A row of the comparison, or two: then the second is subtracted from the first (paired), or divides it where
            ratios are compared.
        metric: A metric, a cost (``flops``, ``trainable_parameters`` and so on), ``order_std`` or ``seconds``; the
            task's primary metric if left out.
        path: In a script's results, its parts separated by ``/``: a key, or ``KEY=VALUE`` (several joined by ``&``) for
            the element of a list. It leads to a number, to a mapping with ``value``, ``low``, ``high`` and ``n``, or to
            a list of value, low and high.
    """

    section = "row of a claim"
    at_least = {"tolerance": 0}

    claim: str
    source: str
    model: str
    published: float | None = None
    compare: Comparing = "more"
    tolerance: float = 0.0
    than: float = 0.0
    of: tuple[str, ...] = ()
    metric: str = ""
    path: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        stated = self.published is not None
        check(stated or self.compare in ("more", "less"), f"{self.claim!r} is compared with no number")
        if self.compare == "ratio":
            check(self.tolerance >= 1, "The tolerance of a ratio is a factor", got=self.tolerance, expected="1 or more")
            check((self.published or 0) > 0, "A published ratio must be above 0", got=self.published)
        for name in ("claim", "source", "model"):
            check(bool(getattr(self, name).strip()), f"A row of a claim has an empty {name}")

    @property
    def compared(self) -> str:
        """What is compared, in words.

        >>> Row("a", "b", "c", compare="more", of=("k5", "k1")).compared
        'the sign: k5 above k1'
        """
        if self.compare in ("more", "less"):
            word = "above" if self.compare == "more" else "below"
            who, whom = (*self.of, "", "")[:2]
            against = f"{whom} {'+' if self.than > 0 else '−'} {abs(self.than):g}" if whom and self.than else whom
            against = against or f"{self.than:g}"
            return f"the sign: {who or 'ours'} {word} {against}"
        if self.compare == "ratio":
            return f"the ratio, within a factor of {self.tolerance:g}"
        return f"the value, ± {self.tolerance:g}" if self.tolerance else "the value"


@dataclasses.dataclass(frozen=True)
class Script(Config):
    """A module of the reproduction that is run in a process of its own.

    Args:
        name: Of the module, without its folder.
        words: What stands after its name; ``{model}`` and ``{data}`` stand for those of the command.
        flags: By name without the dashes; a list has several values, true stands alone, false and null are left out.
        result: The JSON file that it writes into its folder ``--out``.
    """

    section = "script of a claim"

    name: str
    words: tuple[str, ...] = ()
    flags: dict[str, Any] = dataclasses.field(default_factory=dict)
    result: str = "results.json"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(bool(re.fullmatch(r"\w+", self.name)), "A script has the name of a module", got=repr(self.name))
        check(Path(self.result).name == self.result, "A result is a file's name", got=repr(self.result))

    def command(self, out: str, model: str, data: str) -> list[str]:
        """The words after ``python``.

        >>> Script("pear", ("{model}",), {"sets": ["popqa", "nq"], "chat": True}).command("runs/a", "smollm2", "")
        ['-m', 'reproduction.pear', 'smollm2', '--sets', 'popqa', 'nq', '--chat', '--out', 'runs/a']
        """
        words = ["-m", f"reproduction.{self.name}", *self.words]
        for name, value in self.flags.items():
            if value is None or value is False:
                continue
            values = [] if value is True else value if isinstance(value, list) else [value]
            words += [f"--{name}", *map(str, values)]
        return [word.replace(MODEL, model).replace(DATA, data) for word in [*words, "--out", out]]

    @property
    def needs_data(self) -> bool:
        """Whether it reads sets of questions out of a folder."""
        return any(DATA in word for word in self.command("", "", DATA))


@dataclasses.dataclass(frozen=True)
class Entry(Config):
    """A published table, figure or claim.

    Args:
        paper: Its name, with its number at arXiv.
        title: What the table or figure is about.
        claim: What it is published for, in a sentence.
        rows: Published numbers.
        run: A comparison, in the words of a recipe of ``coldframe compare``.
        script: Or a script.
        quick: Changes to ``run`` or ``script`` that scale it down; mappings are merged.
        note: How what runs here differs from the paper's setting.
        name: The file's, without its ending.
        scaled_down: Whether ``quick`` was applied; no file says so.
    """

    section = "claim"

    paper: str
    title: str
    claim: str
    rows: tuple[Row, ...]
    run: dict[str, Any] | None = None
    script: Script | None = None
    quick: dict[str, Any] = dataclasses.field(default_factory=dict)
    note: str = ""
    name: str = ""
    scaled_down: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        single = (self.run is None) != (self.script is None)
        check(single, f"{self.name or self.title} has one of run (a comparison) and script")
        check(bool(self.rows), f"{self.name or self.title} has no rows")
        for row in self.rows:
            where = f"{self.name}: {row.claim!r}"
            if self.run is not None:
                read = len(row.of) in (1, 2) and not row.path
                check(read, f"{where} names one or two rows of the comparison (of), and no path", got=list(row.of))
                check(row.compare != "ratio" or len(row.of) == 2, f"{where} is a ratio of two rows", got=list(row.of))
            else:
                check(bool(row.path) and not row.of, f"{where} names a path in the script's results")

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read YAML.

        Raises:
            ConfigError: It is no claim; the error names the file.
        """
        values = read_mapping(path)
        for key in ("name", "scaled_down"):
            check(key not in values, f"{path}: {key} is not said in the file", got=values.get(key))
        try:
            if isinstance(values.get("script"), Mapping):  # read apart, so that its own errors are told
                values["script"] = Script.from_dict(values["script"])
            return cls.from_dict({**values, "name": Path(path).stem})
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    @property
    def needs_data(self) -> bool:
        """Whether it needs a folder of question sets."""
        return self.script is not None and self.script.needs_data

    def sized(self, quick: bool) -> Entry:
        """As it runs: scaled down where that is wanted."""
        if not quick or not self.quick:
            return self
        if self.run is not None:
            return dataclasses.replace(self, run=merged(self.run, self.quick), scaled_down=True)
        assert self.script is not None  # one of both, see above
        script = Script.from_dict(merged(self.script.to_dict(), self.quick))
        return dataclasses.replace(self, script=script, scaled_down=True)


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings within mappings are merged, everything else is replaced.

    >>> merged({"task": {"data": "b3db"}, "seeds": [0, 1]}, {"task": {"max_train": 64}, "seeds": [0]})
    {'task': {'data': 'b3db', 'max_train': 64}, 'seeds': [0]}
    """
    result = dict(values)
    for key, change in changes.items():
        before = result.get(key)
        result[key] = merged(before, change) if isinstance(before, Mapping) and isinstance(change, Mapping) else change
    return result


def read_entries(folder: str | Path) -> dict[str, Entry]:
    """All claims of a reproduction, by name.

    Args:
        folder: Of the reproduction: its modules, and ``claims/*.yaml``.

    Raises:
        ConfigError: There are none, or one cannot be read.
    """
    paths = sorted((local_path(folder) / ENTRIES).glob("*.yaml"))
    if not paths:
        raise ConfigError(
            f"{folder} holds no claims",
            expected=f"{folder}/{ENTRIES}/*.yaml",
            fix="Run it from a checkout of coldframe, or name the checkout's folder with --folder.",
        )
    return {path.stem: Entry.from_file(path) for path in paths}


def chosen(entries: Mapping[str, Entry], names: tuple[str, ...]) -> dict[str, Entry]:
    """The entries of some names.

    Raises:
        ConfigError: There is none of that name.
    """
    for name in names:
        if name not in entries:
            raise ConfigError(f"There is no claim {name!r}", fix=nearest(name, entries))
    return {name: entries[name] for name in dict.fromkeys(names)}
