"""``coldframe reproduce``."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from coldframe.cli.compare import Compare, run_comparison
from coldframe.cli.flags import Grouped
from coldframe.cli.output import print_json, show, tell
from coldframe.cli.parsing import parse, writable
from coldframe.config import local_path
from coldframe.errors import ConfigError

if TYPE_CHECKING:
    from coldframe.claims.entry import Entry
    from coldframe.claims.runner import Reproduction, Result
    from coldframe.evaluation.comparison import Comparison

#: Exit status where a claim could not be run.
FAILED = 1


@dataclasses.dataclass(frozen=True)
class Reproduce(Grouped):
    """Published claims, each run by its name: ours beside theirs, with intervals and a verdict.

    For example:
      coldframe reproduce --list
      coldframe reproduce mha-esp-exemplars --quick
      coldframe reproduce --all --quick --data DATA
      coldframe reproduce poly-prag-facts --model gemma3-270m

    Run it from a checkout: claims are files of its folder reproduction, and some of them are scripts there. What a
    claim will cost is said before it starts. What is done is kept in --out and read the next time; what was
    interrupted goes on where it stopped. A claim that fails does not stop the others; the exit status is then 1.

    Args:
        names: Of claims; see --list.
        list: List the claims with what they will cost, and run nothing.
        all: Run all of them.
        quick: Scaled down: a few rows, one or two epochs, one seed. Shows that it runs; every row is labelled so.
        model: The frozen model, where a claim names none.
        data: Folder of published question sets (nq-open, popqa-1000 and so on); claims that need it are left out
            without it.
        folder: The reproduction's, in a checkout.
        out: Folder of a page for each paper, reproduction.md, results.json and all runs; below it one for each model.
        json: Print the results as JSON.
        quiet: No progress.
    """

    names: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="NAME")] = ()
    list: bool = False
    all: bool = False
    quick: bool = False
    model: str = "smollm2"
    data: str | None = None
    folder: str = "reproduction"
    out: str = "runs/reproduce"
    json: bool = False
    quiet: bool = False


def run(argv: Sequence[str]) -> int:
    """Run claims, write the pages, print the table; the exit status."""
    options = parse(Reproduce, "reproduce", argv)
    from coldframe.claims.entry import chosen, read_entries
    from coldframe.claims.runner import Reproduction

    entries = read_entries(options.folder)
    if not (options.names or options.all or options.list):
        raise ConfigError("No claim is named", expected="names of claims, or --all", fix="coldframe reproduce --list")
    entries = chosen(entries, options.names) if options.names else entries
    data = None if options.data is None else local_path(options.data)
    if data is not None and not data.is_dir():
        raise ConfigError("There is no such folder of question sets", got=options.data)
    reproduction = Reproduction(
        local_path(options.folder),
        local_path(options.out),
        lambda recipe, out, command: _compare(recipe, out, command, options.quiet),
        options.model,
        options.quick,
        data,
        options.quiet,
    )
    if options.list:
        _list(options, reproduction, entries)
        return 0
    with writable(reproduction.out):
        return _run(options, reproduction, entries, shlex.join(["coldframe", "reproduce", *argv]))


def _run(options: Reproduce, reproduction: Reproduction, entries: Mapping[str, Entry], command: str) -> int:
    from coldframe.claims import report
    from coldframe.claims.effort import announced
    from coldframe.reports.html import environment
    from coldframe.storage.files import write_json, write_text

    environment()  # what the pages need is missed now, not after the work
    for name in options.names:
        if entries[name].needs_data and reproduction.data is None:
            raise ConfigError(f"{name} reads published sets of questions", fix="Name their folder with --data.")
    tell(announced({name: reproduction.effort(entry) for name, entry in entries.items()}), options.quiet)
    results = reproduction.run(entries)
    home = reproduction.home
    for paper, of_paper in report.by_paper(_all_kept(options, reproduction, results)).items():
        write_text(
            home / f"{report.page_name(paper)}.html", report.render_page(paper, of_paper, options.model, command)
        )
    write_text(home / "reproduction.md", report.render_markdown(results, command))
    write_json(home / "results.json", report.to_dict(results), indent=2)
    if options.json:
        print_json(report.to_dict(results))
    else:
        show(report.render_table(results))
        print(f"wrote {home}: a page for each paper, reproduction.md, results.json")
    return FAILED if any(result.state == "failed" for result in results) else 0


def _all_kept(options: Reproduce, reproduction: Reproduction, results: Sequence[Result]) -> list[Result]:
    """What just ran, and beside it what was kept of other claims: a paper's page has all that is known."""
    from coldframe.claims.entry import read_entries
    from coldframe.claims.runner import Result

    ran = {result.entry.name: result for result in results}
    pages = []
    for name, entry in read_entries(options.folder).items():
        sized = reproduction.sized(entry)
        finished = reproduction.finished(sized)
        if name in ran:
            pages.append(ran[name])
        elif finished is not None:
            pages.append(Result(sized, "done", finished))
    return pages


def _compare(recipe: Path, out: Path, command: str, quiet: bool) -> Comparison:
    """A comparison, as ``coldframe compare --recipe`` makes it."""
    options = parse(Compare, "compare", ["--recipe", str(recipe), "--out", str(out)])
    comparison, _ = run_comparison(dataclasses.replace(options, quiet=quiet), command)
    return comparison


def _list(options: Reproduce, reproduction: Reproduction, entries: Mapping[str, Entry]) -> None:
    """Print the claims."""
    from coldframe.reports import terminal
    from coldframe.reports.blocks import Table
    from coldframe.reports.numbers import plural

    efforts = {name: reproduction.effort(entry) for name, entry in entries.items()}
    if options.json:
        about = {name: dataclasses.asdict(effort) for name, effort in efforts.items()}
        print_json([{"name": n, "paper": e.paper, "title": e.title, "effort": about[n]} for n, e in entries.items()])
        return
    rows = []
    for name, entry in entries.items():
        effort = efforts[name]
        needs = "--data" if entry.needs_data else ""
        rows.append([name, entry.title, plural(len(entry.rows), "row"), effort.work, effort.time, needs])
    head = ("claim", "what", "published", "work", "time", "needs")
    show(terminal.render([Table.plain(head, rows, words=range(6))]))
