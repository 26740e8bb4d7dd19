"""The parts of the page that are HTML alone. Whatever comes from users is escaped here."""

from __future__ import annotations

import html
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

TROUBLES_SHOWN = 200
FLAW, FAILURE = "flaw", "failure"
"""Heads of columns that are there where some model has one."""

FEW = 8
"""Longer lists are folded."""


def text(value: object) -> str:
    """Escaped."""
    return html.escape(str(value))


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


def summary(contents: Contents) -> str:
    """Notes, and the figures that are asked for first."""
    notes = "".join(f"<p class='note'>{text(note)}</p>" for note in contents.notes)
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
    cells = "".join(
        f"<div><b>{text(value)}</b> {text(name)}<small>{text(more)}</small></div>"
        for value, name, more in tiles
        if value
    )
    return f"{notes}{_best(contents)}<div class='tiles'>{cells}</div>"


def _counted(states: Sequence[str]) -> str:
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def _more(number: int, what: str) -> str:
    return count(number, what) if number else ""


def _best(contents: Contents) -> str:
    ranked = contents.ranked
    if not ranked or math.isnan(ranked[0].value):
        return ""
    best = ranked[0]
    config = ", ".join(f"<b>{text(k)}</b> {text(shown(v))}" for k, v in best.config.items())
    where = f" after epoch {best.best.epoch}" if best.best else " in training"
    return (
        f"<p class='best'>Best: <b>model {best.id}</b>, {text(contents.metric_name)} "
        f"<b>{number(best.value)}</b>{where}{': ' if config else ''}{config}</p>"
    )


# --- the models ----------------------------------------------------------------------------------


def models(contents: Contents) -> str:
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
    head = "".join(
        f"<th scope='col'><button type='button'>{text(name)}</button></th>" for name in heads
    )
    rows = "".join(_row(model, names, heads) for model in contents.ranked)
    common = ""
    if same:
        values = ", ".join(f"<b>{text(n)}</b> {text(shown(configs[0][n]))}" for n in same)
        common = f"<p>The same for all models: {values}.</p>"
    return (
        f"{common}<div class='scroll'><table id='models'><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row(model: ReportedModel, names: Sequence[str], heads: Sequence[str]) -> str:
    last = model.epochs[-1] if model.epochs else None
    best = model.best
    cells = [_cell(model.id), f"<td class='{text(model.state)}'>{text(model.state)}</td>"]
    cells.append(_cell(len(model.epochs)))
    cells += [_cell(model.config[n]) if n in model.config else "<td></td>" for n in names]
    cells.append(_metric(model.value if best else math.nan))
    cells.append(_cell(best.epoch) if best else "<td></td>")
    for metric in ("valid_error", "train_error", "valid_loss", "train_loss"):
        cells.append(_metric(getattr(last, metric) if last else math.nan))
    if FLAW in heads[len(cells) :]:
        cells.append(f"<td class='failure'>{text(_flaws(model))}</td>")
    if FAILURE in heads[len(cells) :]:
        cells.append(_failure(model.failure))
    return f"<tr data-model='{model.id}'>{''.join(cells)}</tr>"


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


def _failure(message: str) -> str:
    """The first line; the rest, if there is one, is folded."""
    first = first_line(message, 200)
    if first == message:
        return f"<td class='failure'>{text(first)}</td>"
    return (
        f"<td class='failure'><details><summary>{text(first)}</summary>"
        f"<pre>{text(message)}</pre></details></td>"
    )


def _cell(value: object) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"<td class='number' data-value='{value}'>{text(shown(value))}</td>"
    return f"<td>{text(shown(value))}</td>"


def _metric(value: float) -> str:
    key = "" if math.isnan(value) else value
    return f"<td class='number' data-value='{key}'>{number(value)}</td>"


# --- time ----------------------------------------------------------------------------------------


def utilisation(contents: Contents) -> str:
    """A bar a worker: how its time was divided."""
    rows = "".join(_utilisation(worker, contents.seconds) for worker in contents.workers)
    return (
        f"{_legend()}<table class='bars'><thead><tr><th>worker</th>"
        "<th class='number'>inside train_fn</th><th class='number'>units</th>"
        "<th class='wide'>from start to end</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )


def _utilisation(worker: ReportedWorker, whole: float) -> str:
    spent = dict.fromkeys(GROUPS, 0.0)
    for name, value in worker.spent.items():
        spent[PARTS[name].group] += value
    inside = spent["train"] + spent["valid"]
    pieces = "".join(
        f"<i class='{group}' style='width:{100 * value / whole:.3f}%' "
        f"title='{text(GROUPS[group])}: {seconds(value)}'></i>"
        for group, value in spent.items()
        if value > 0 and whole > 0
    )
    return (
        f"<tr><th scope='row'>{worker.id} <small>{text(worker.url)}</small></th>"
        f"<td class='number'>{inside / whole if whole else 0:.0%}</td>"
        f"<td class='number'>{len(worker.bars):,}</td><td><div class='bar'>{pieces}</div></td></tr>"
    )


def _legend() -> str:
    keys = "".join(f"<span><i class='{g}'></i>{text(name)}</span>" for g, name in GROUPS.items())
    return f"<p class='legend'>{keys}</p>"


def phases(contents: Contents) -> str:
    """Where the time of all workers went; the parts sum up to it."""
    whole = contents.seconds * len(contents.workers)
    rows = []
    for name, part in PARTS.items():
        value = sum(worker.spent[name] for worker in contents.workers)
        share = value / whole if whole else 0.0
        rows.append(
            f"<tr><th scope='row'>{text(part.meaning)}</th>"
            f"<td class='number'>{seconds(value) if value else '–'}</td>"
            f"<td class='number'>{share:.1%}</td>"
            f"<td><div class='bar'><i class='{part.group}' style='width:{100 * share:.3f}%'></i>"
            "</div></td></tr>"
        )
    return (
        "<table class='bars'><thead><tr><th>part</th><th class='number'>of all workers</th>"
        "<th class='number'>share</th><th class='wide'></th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
        f"<p>Versions took {seconds(contents.saving)} to be saved. Workers do that beside their "
        "next units, so it is not among these parts.</p>"
    )


def troubles(contents: Contents) -> str:
    """What went wrong, in order of time."""
    if not contents.troubles:
        return "<p>Nothing went wrong.</p>"
    rows = "".join(
        f"<tr><td class='number' data-value='{t.seconds}'>{seconds(t.seconds)}</td>"
        f"<td class='number'>{'' if t.worker is None else t.worker}</td><td>{text(t.what)}</td>"
        f"<td>{text(t.unit)}</td><td class='failure'>{text(t.message)}</td></tr>"
        for t in contents.troubles[:TROUBLES_SHOWN]
    )
    left = len(contents.troubles) - TROUBLES_SHOWN
    more = f"<p>{left} more stand in the run’s units.csv and logs.</p>" if left > 0 else ""
    return (
        "<div class='scroll'><table id='troubles'><thead><tr>"
        "<th class='number'>after</th><th class='number'>worker</th>"
        f"<th>what</th><th>unit</th><th>message</th></tr></thead><tbody>{rows}</tbody></table>"
        f"</div>{more}"
    )


# --- where it comes from -------------------------------------------------------------------------


def provenance(contents: Contents) -> str:
    """Names, and what stands for them; long lists are folded."""
    rows = "".join(
        f"<dt>{text(name)}</dt><dd>{_values(values)}</dd>" for name, values in contents.provenance
    )
    return f"<dl>{rows}</dl>"


def _values(values: Sequence[str]) -> str:
    if len(values) == 1:
        return text(values[0])
    items = f"<ul>{_items(values)}</ul>"
    if len(values) <= FEW:
        return items
    return f"<details><summary>{len(values)}, from {text(values[0])}</summary>{items}</details>"


def _items(values: Iterable[str]) -> str:
    return "".join(f"<li>{text(value)}</li>" for value in values)
