"""The parts of the page that are HTML alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from cerebro.formatting import count, first_line, metric_name, shown
from cerebro.report.axes import varying
from cerebro.report.contents import (
    COMMITTED,
    GROUPS,
    PARTS,
    Contents,
    ReportedModel,
    ReportedWorker,
)
from cerebro.report.markup import Markup, element, joined, text

TROUBLES_SHOWN = 200
FLAW, FAILURE = "flaw", "failure"
"""Heads of columns that are there where some model has one."""

FEW = 8
"""Longer lists are folded."""


def seconds(value: float) -> str:
    """A duration: `0.42 s`, `12 s`, `3 min 5 s`, `2 h 14 min`, `3 d 2 h`."""
    if value < 10:
        return f"{value:.2g} s" if value < 1 else f"{value:.1f} s"
    whole = round(value)
    for unit, size, below, name in (("d", 86400, 3600, "h"), ("h", 3600, 60, "min")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // below} {name}"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def number(value: float) -> str:
    """Four digits; empty for NaN."""
    return "" if math.isnan(value) else f"{value:.4g}"


def summary(contents: Contents) -> Markup:
    """Notes, and the figures that are asked for first."""
    notes = [element("p", note, class_="note") for note in contents.notes]
    bars = [bar for worker in contents.workers for bar in worker.bars]
    done = sum(bar.outcome == COMMITTED for bar in bars)
    inside = sum(w.spent["training"] + w.spent["validating"] for w in contents.workers)
    time = contents.seconds * len(contents.workers)
    states = [model.state for model in contents.models]
    tiles = [
        (str(len(states)), "models", _counted(states)),
        (str(max((len(m.epochs) for m in contents.models), default=0)), "epochs at most", ""),
        (f"{done:,}", "units done", _more(len(bars) - done, "further attempt")),
        (str(len(contents.workers)), "workers", _more(len(contents.restarts), "resumption")),
        (seconds(contents.seconds), "from start to end", f"started {contents.began}"),
        (f"{inside / time:.0%}" if time else "", "of the workers’ time inside train_fn", ""),
    ]
    cells = [
        element("div", element("b", value), " ", name, element("small", more))
        for value, name, more in tiles
        if value
    ]
    return joined([*notes, _best(contents), element("div", *cells, class_="tiles")])


def _counted(states: Sequence[str]) -> str:
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def _more(number: int, what: str) -> str:
    return count(number, what) if number else ""


def _best(contents: Contents) -> Markup:
    ranked = contents.ranked
    if not ranked or math.isnan(ranked[0].value):
        return Markup()
    best = ranked[0]
    where = f" after epoch {best.best.epoch}" if best.best else " in training"
    return element(
        "p",
        "Best: ",
        element("b", f"model {best.id}"),
        f", {contents.metric_name} ",
        element("b", number(best.value)),
        where,
        ": " if best.config else "",
        _named(best.config.items()),
        class_="best",
    )


def _named(values: Iterable[tuple[str, object]]) -> Markup:
    """Hyperparameters, with their values."""
    return joined((joined([element("b", k), " ", shown(v)]) for k, v in values), ", ")


# --- the models ----------------------------------------------------------------------------------


def models(contents: Contents) -> Markup:
    """The sortable table: best first, hyperparameters that differ as columns."""
    configs = [model.config for model in contents.models]
    names = varying(configs)
    same = [n for n in dict.fromkeys(n for c in configs for n in c) if n not in names]
    heads = ["model", "state", "epochs", *names, f"best {metric_name(contents.metric)}", "at epoch"]
    heads += ["valid error", "train error", "valid loss", "train loss"]
    if any(epoch.flaw for model in contents.models for epoch in model.epochs):
        heads.append(FLAW)
    if any(model.failure for model in contents.models):
        heads.append(FAILURE)
    head = [element("th", element("button", name, type="button"), scope="col") for name in heads]
    rows = [_row(model, names, heads) for model in contents.ranked]
    common = Markup()
    if same:
        values = _named((name, configs[0][name]) for name in same)
        common = element("p", "The same for all models: ", values, ".")
    return joined([common, _scrolled(element("tr", *head), rows, "models")])


def _scrolled(head: Markup, rows: Iterable[Markup], name: str) -> Markup:
    content = element("thead", head), element("tbody", *rows)
    return element("div", element("table", *content, id=name), class_="scroll")


def _row(model: ReportedModel, names: Sequence[str], heads: Sequence[str]) -> Markup:
    last = model.epochs[-1] if model.epochs else None
    best = model.best
    empty = element("td")
    cells = [_cell(model.id), element("td", model.state, class_=model.state)]
    cells.append(_cell(len(model.epochs)))
    cells += [_cell(model.config[n]) if n in model.config else empty for n in names]
    cells.append(_metric(model.value if best else math.nan))
    cells.append(_cell(best.epoch) if best else empty)
    for metric in ("valid_error", "train_error", "valid_loss", "train_loss"):
        cells.append(_metric(getattr(last, metric) if last else math.nan))
    if FLAW in heads[len(cells) :]:
        cells.append(element("td", _flaws(model), class_="failure"))
    if FAILURE in heads[len(cells) :]:
        cells.append(_failure(model.failure))
    return element("tr", *cells, data_model=model.id)


def _flaws(model: ReportedModel) -> str:
    """What is wrong with the model's numbers, and after which epochs."""
    own: dict[str, list[int]] = {}
    for epoch in model.epochs:
        if epoch.flaw:
            own.setdefault(epoch.flaw, []).append(epoch.epoch)
    return "; ".join(
        f"{flaw} after epoch {epochs[0]}" + (f" and {len(epochs) - 1} more" * (len(epochs) > 1))
        for flaw, epochs in own.items()
    )


def _failure(message: str) -> Markup:
    """The first line; the rest, if there is one, is folded."""
    first = first_line(message, 200)
    if first == message:
        return element("td", first, class_="failure")
    folded = element("details", element("summary", first), element("pre", message))
    return element("td", folded, class_="failure")


def _cell(value: object) -> Markup:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return element("td", shown(value), class_="number", data_value=value)
    return element("td", shown(value))


def _metric(value: float) -> Markup:
    key = "" if math.isnan(value) else value
    return element("td", number(value), class_="number", data_value=key)


# --- time ----------------------------------------------------------------------------------------


def utilisation(contents: Contents) -> Markup:
    """A bar a worker: how its time was divided."""
    heads = [("worker", None), ("inside train_fn", "number"), ("units", "number")]
    rows = [_utilisation(worker, contents.seconds) for worker in contents.workers]
    return joined([_legend(), _bars([*heads, ("from start to end", "wide")], rows)])


def _bars(heads: Iterable[tuple[str, str | None]], rows: Iterable[Markup]) -> Markup:
    """A table with a bar in each row; heads have a class."""
    head = element("tr", *(element("th", name, class_=kind) for name, kind in heads))
    return element("table", element("thead", head), element("tbody", *rows), class_="bars")


def _bar(pieces: Iterable[Markup]) -> Markup:
    return element("td", element("div", *pieces, class_="bar"))


def _utilisation(worker: ReportedWorker, whole: float) -> Markup:
    spent = dict.fromkeys(GROUPS, 0.0)
    for name, value in worker.spent.items():
        spent[PARTS[name].group] += value
    inside = spent["train"] + spent["valid"]
    pieces = [
        element(
            "i",
            class_=group,
            style=f"width:{100 * value / whole:.3f}%",
            title=f"{GROUPS[group]}: {seconds(value)}",
        )
        for group, value in spent.items()
        if value > 0 and whole > 0
    ]
    return element(
        "tr",
        element("th", worker.id, " ", element("small", worker.url), scope="row"),
        element("td", f"{inside / whole if whole else 0:.0%}", class_="number"),
        element("td", f"{len(worker.bars):,}", class_="number"),
        _bar(pieces),
    )


def _legend() -> Markup:
    keys = [element("span", element("i", class_=g), name) for g, name in GROUPS.items()]
    return element("p", *keys, class_="legend")


def phases(contents: Contents) -> Markup:
    """Where the time of all workers went; the parts sum up to it."""
    whole = contents.seconds * len(contents.workers)
    rows = []
    for name, part in PARTS.items():
        value = sum(worker.spent[name] for worker in contents.workers)
        share = value / whole if whole else 0.0
        piece = element("i", class_=part.group, style=f"width:{100 * share:.3f}%")
        rows.append(
            element(
                "tr",
                element("th", part.meaning, scope="row"),
                element("td", seconds(value) if value else "–", class_="number"),
                element("td", f"{share:.1%}", class_="number"),
                _bar([piece]),
            )
        )
    heads = [("part", None), ("of all workers", "number"), ("share", "number"), ("", "wide")]
    saving = (
        f"Versions took {seconds(contents.saving)} to be saved. Workers do that beside their "
        "next units, so it is not among these parts."
    )
    return joined([_bars(heads, rows), element("p", saving)])


def troubles(contents: Contents) -> Markup:
    """What went wrong, in order of time."""
    if not contents.troubles:
        return element("p", "Nothing went wrong.")
    rows = [
        element(
            "tr",
            element("td", seconds(t.seconds), class_="number", data_value=t.seconds),
            element("td", "" if t.worker is None else t.worker, class_="number"),
            element("td", t.what),
            element("td", t.unit),
            element("td", t.message, class_="failure"),
        )
        for t in contents.troubles[:TROUBLES_SHOWN]
    ]
    heads = [("after", "number"), ("worker", "number"), ("what", None), ("unit", None)]
    head = element("tr", *(element("th", n, class_=c) for n, c in [*heads, ("message", None)]))
    left = len(contents.troubles) - TROUBLES_SHOWN
    more = element("p", f"{left} more stand in the run’s units.csv and logs.") if left > 0 else ""
    return joined([_scrolled(head, rows, "troubles"), more])


# --- where it comes from -------------------------------------------------------------------------


def provenance(contents: Contents) -> Markup:
    """Names, and what stands for them; long lists are folded."""
    rows = [
        joined([element("dt", name), element("dd", _values(values))])
        for name, values in contents.provenance
    ]
    return element("dl", *rows)


def _values(values: Sequence[str]) -> Markup:
    if len(values) == 1:
        return text(values[0])
    items = element("ul", *(element("li", value) for value in values))
    if len(values) <= FEW:
        return items
    summary = element("summary", f"{len(values)}, from {values[0]}")
    return element("details", summary, items)
