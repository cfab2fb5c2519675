"""The tables of a folder of results: accuracies at the best rate, the whole grid, and the paper's numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from glm_scale.tasks.agreement import LEVEL, Agreement, agreement
from glm_scale.tasks.model import HEADS, LAYERS, WIDTH
from glm_scale.tasks.paper import REMARK, Published, published
from glm_scale.tasks.results import Result, Score, mixers_in, tasks_in
from glm_scale.tasks.setting import TIMES, Setting

__all__ = ["Table", "remarks_on", "tables_of"]

NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """Texts under headings; `marked`: (row, column) of the best of a column; `note`: what to know of it."""

    title: str
    headings: list[str]
    rows: list[list[str]]
    marked: frozenset[tuple[int, int]] = frozenset()
    note: str = ""


def tables_of(results: list[Result]) -> list[Table]:
    """All there is to say, the most important first."""
    tables = [_best(results), *(_longer(results, times) for times in TIMES[1:]), _grid(results)]
    beside = _beside_the_paper(results)
    return [*tables[:1], *([beside] if beside else []), *tables[1:]]


def _best(results: list[Result]) -> Table:
    """A line for each structure, a column for each task: percent right at the best rate, the best marked."""
    title = "percent right at the best rate, mean ± standard deviation over seeds"
    return _by_structure(title, results, lambda result: result.best())


def _longer(results: list[Result], times: int) -> Table:
    """The same at `times` the length of training, at the rate that is best at the length of training."""
    title = f"at {times}× the length, the rate as above"
    return _by_structure(title, results, lambda result: result.best(times))


def _grid(results: list[Result]) -> Table:
    """A line for each structure and rate."""
    tasks, mixers = tasks_in(results), mixers_in(results)
    found = {(result.task, result.mixer): {s.rate: str(s) for s in result.scores()} for result in results}
    rates = sorted({rate for scores in found.values() for rate in scores})
    rows = [
        [mixer, f"{rate:g}", *(found.get((task, mixer), {}).get(rate, NOTHING) for task in tasks)]
        for mixer in mixers
        for rate in rates
    ]
    return Table("all rates: percent right", ["structure", "rate", *tasks], rows)


def _beside_the_paper(results: list[Result]) -> Table | None:
    """Ours, then the paper's numbers, and below them how well the orders agree; None if no structure and task of these
    is in it."""
    ours = {(result.task, result.mixer): result for result in results}
    tasks = [task for task in tasks_in(results) if _in_paper(task)]
    lines = {mixer: line for mixer in mixers_in(results) if (line := published(mixer)) is not None}
    if not tasks or not lines:
        return None
    words = list(dict.fromkeys(map(_in_paper, tasks)))
    headings = ["structure", *tasks, *(f"paper: {word}" for word in words)]
    rows = []
    for mixer, line in lines.items():
        found = (ours.get((task, mixer)) for task in tasks)
        shares = [f"{100 * result.best().mean:.1f}" if result else NOTHING for result in found]
        rows.append([mixer, *shares, *(f"{line.of(word):g}" for word in words)])
    note = REMARK
    if any(orders := [_order_of(task, lines, ours) for task in tasks]):
        rows.append(["Spearman's ρ", *(str(order or NOTHING) for order in orders), *(NOTHING for _ in words)])
        note += f"; ρ: of the order of ours and theirs, with what {LEVEL:.0%} of bootstrapped seeds give"
    return Table("beside the paper", headings, rows, note=note)


def _order_of(task: str, lines: Mapping[str, Published], ours: Mapping[tuple[str, str], Result]) -> Agreement | None:
    """Of all structures that both have."""
    there = [mixer for mixer in lines if (task, mixer) in ours]
    return agreement([ours[task, mixer] for mixer in there], [lines[mixer].of(_in_paper(task)) for mixer in there])


def remarks_on(results: list[Result]) -> list[str]:
    """What a reader has to know of these numbers."""
    setting = results[0].setting
    remarks = [_described(setting)]
    if setting.seeds == 1:
        remarks.append("one seed: there is no spread, and a difference may be luck")
    if any(_at_an_end(result) for result in results) and len(setting.rates) > 1:
        remarks.append("a best rate at an end of the grid may not be the best there is; --rates tries others")
    return remarks


def _described(setting: Setting) -> str:
    convolution = "with a convolution of 4 tokens" if setting.conv else "without convolution"
    feed_forward = "with gated MLPs" if setting.mlp else "without MLPs"
    rates = ", ".join(f"{rate:g}" for rate in setting.rates)
    return (
        f"{LAYERS} layers of width {WIDTH} with {HEADS} heads, {feed_forward}, {convolution}; {setting.steps:,} steps "
        f"of {setting.batch} sequences, {setting.seeds} seeds, rates {rates}; asked on {setting.sequences:,} fresh "
        "sequences"
    )


def _at_an_end(result: Result) -> bool:
    """Whether the best rate is the lowest or the highest, and there was something to choose."""
    scores = result.scores()
    means = {score.mean for score in scores}
    return len(means) > 1 and result.best().rate in (scores[0].rate, scores[-1].rate)


def _by_structure(title: str, results: list[Result], score: Callable[[Result], Score]) -> Table:
    tasks, mixers = tasks_in(results), mixers_in(results)
    found = {(result.task, result.mixer): score(result) for result in results}
    rows = [[mixer, *(str(found.get((task, mixer), NOTHING)) for task in tasks)] for mixer in mixers]
    marked = set()
    for column, task in enumerate(tasks, 1):
        # Alike in the digits that are shown is alike.
        shown = {mixer: round(100 * found[task, mixer].mean, 1) for mixer in mixers if (task, mixer) in found}
        marked |= {(row, column) for row, mixer in enumerate(mixers) if shown.get(mixer) == max(shown.values())}
    return Table(title, ["structure", *tasks], rows, frozenset(marked))


def _in_paper(task: str) -> str:
    """The paper's word for a task, empty if it has none."""
    head = task.partition(":")[0]
    return head if head in Published._fields else ""
