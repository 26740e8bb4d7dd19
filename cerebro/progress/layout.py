"""A view as lines of styled text, for so many columns and rows."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from cerebro.formatting import count, duration, metric_name, one_line, shown
from cerebro.progress.view import TROUBLES, BestView, View, WorkerActivity, WorkerView

LABEL = 8
BAR = "\N{BOX DRAWINGS HEAVY HORIZONTAL}"
REST = "\N{BOX DRAWINGS LIGHT HORIZONTAL}"
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
WAITS_SHOWN = 3
ADDRESS = 15
"""Characters that an address may have at least: those of 127.0.0.1:40000."""


class Span(NamedTuple):
    """A piece of a line; `style` is one of title, dim, good, busy, bad, or empty."""

    text: str
    style: str = ""


Line = tuple[Span, ...]


def lay_out(view: View, width: int, height: int) -> list[Line]:
    """Return at most `height` lines of at most `width` characters, what matters most first.

    Texts are escaped, so that each line is one.
    """
    lines = [_head(view)]
    if view.epoch is not None:
        lines.append(_epoch(view, width))
    if view.models:
        lines.append(_models(view))
        lines.append(_labelled("best", *_best(view.best)))
        lines.append(_labelled("disk", Span(view.disk)))
    lines += _waits(view, width)
    lines += _workers(view, width, height - len(lines))
    return [clip(_printable(line), width) for line in lines[:height]]


def _printable(line: Line) -> Line:
    return tuple(Span(one_line(text), style) for text, style in line)


def clip(line: Line, width: int) -> Line:
    """Cut a line off at the width; an ellipsis shows that it goes further."""
    if sum(len(span.text) for span in line) <= width:
        return line
    spans, left = [], width - 1
    for text, style in line:
        spans.append(Span(text[:left], style))
        left -= len(text[:left])
    return (*spans, Span(ELLIPSIS))


def text_of(line: Line) -> str:
    """Return a line without its styles."""
    return "".join(span.text for span in line)


def _labelled(label: str, *spans: Span) -> Line:
    return (Span(f"{label:<{LABEL}}", "dim"), *spans)


def _head(view: View) -> Line:
    spans = [Span(view.name or "starting", "title"), Span(f"  {duration(view.seconds)}", "dim")]
    if view.outcome:
        spans.append(Span(f"  {view.outcome}", "good" if view.outcome == "ended" else "bad"))
    return _labelled("run", *spans)


def _epoch(view: View, width: int) -> Line:
    epoch = view.epoch
    assert epoch is not None
    epochs = f"{epoch.first}" if epoch.first == epoch.last else f"{epoch.first} to {epoch.last}"
    bar = max(10, min(40, width // 4))
    full = round(bar * epoch.done / epoch.units) if epoch.units else bar
    spans = [
        Span(f"{epochs}  "),
        Span(BAR * full, "good"),
        Span(REST * (bar - full), "dim"),
        Span(f"  {epoch.done} of {count(epoch.units, 'unit')}"),
    ]
    if view.time_left is not None:
        spans.append(Span(f"  {view.time_left.text()}", "title"))
    return _labelled("epoch", *spans)


def _models(view: View) -> Line:
    spans = [Span(str(sum(number for _, number in view.models)))]
    for n, (state, number) in enumerate(view.models):
        style = {"RUNNING": "busy", "FAILED": "bad"}.get(state, "good")
        spans += [Span(", " if n else ": "), Span(f"{number} {state}", style)]
    done = f"; {count(view.epochs, 'epoch')} and {count(view.units, 'unit')} done"
    if view.ruined:
        spans.append(Span(f"; {view.ruined} ruined: numbers are not finite", "bad"))
    return _labelled("models", *spans, Span(done))


def _best(best: BestView | None) -> tuple[Span, ...]:
    if best is None:
        return (Span("none yet: no epoch with validation has ended", "dim"),)
    config = ", ".join(f"{key} {shown(value)}" for key, value in best.config.items())
    text = f"model {best.model}, epoch {best.epoch}: {metric_name(best.metric)} {best.value:.4f}"
    return Span(text, "good"), Span(f"  {config}", "dim")


def _waits(view: View, width: int) -> list[Line]:
    """Show what the driver does and waits for; of many, the first ones and a count."""
    texts = [f"{text} (for {duration(seconds)})" for text, seconds in view.doing]
    texts += [text.removeprefix("waiting ") for text in view.waits]
    texts = [*map(one_line, texts)]
    named = texts if len(texts) <= WAITS_SHOWN else texts[: WAITS_SHOWN - 1]
    wrap = textwrap.TextWrapper(width - LABEL, max_lines=2, placeholder=f" {ELLIPSIS}")
    pieces = [piece for text in named for piece in wrap.wrap(text)]
    lines = [_labelled("" if n else "waiting", Span(piece)) for n, piece in enumerate(pieces)]
    if len(texts) > len(named):
        lines.append(_labelled("", Span(f"and {len(texts) - len(named)} more", "dim")))
    return lines


_ORDER = {state: number for number, state in enumerate(WorkerActivity)}
_STYLES = {
    **dict.fromkeys(TROUBLES, "bad"),
    WorkerActivity.TRAINING: "busy",
    WorkerActivity.VALIDATING: "busy",
    WorkerActivity.IDLE: "dim",
}


def _workers(view: View, width: int, rows: int) -> list[Line]:
    """Show one row per worker; where they are too many, those that matter and a count of the rest.

    Troubles matter most, then what is not at work yet, then what has been at a unit for longest.
    """
    workers = view.workers
    if not workers or rows < 1:
        return []
    shown: Sequence[WorkerView] = workers
    rest: list[WorkerView] = []
    if len(workers) > rows:
        ranked = sorted(workers, key=lambda w: (_rank(w.state), -w.seconds, w.number))
        shown, rest = ranked[: rows - 1], ranked[rows - 1 :]
    columns = max((len(_address(w)) for w in shown), default=0)
    lines = [_worker(w, min(columns, max(ADDRESS, width // 5))) for w in shown]
    if rest:
        counts = Counter(worker.state for worker in rest)
        parts = ", ".join(
            f"{counts[state]} {state.value}" for state in WorkerActivity if counts[state]
        )
        words = f"and {len(rest)} more: {parts}" if shown else f"{len(rest)}: {parts}"
        lines.append(_labelled("" if shown else "workers", Span(words, "dim")))
    return lines


def _rank(state: WorkerActivity) -> int:
    """Rank an activity; training and validating rank alike."""
    return _ORDER[WorkerActivity.TRAINING if state is WorkerActivity.VALIDATING else state]


def _address(worker: WorkerView) -> str:
    return one_line(worker.url.removeprefix("http://"))


def _shorten(address: str, columns: int) -> str:
    """Cut an address in the middle: nodes differ in the start, their workers in the port."""
    if len(address) <= columns:
        return address
    host, colon, port = address.rpartition(":")
    return f"{host[: columns - 2 - len(port)]}{ELLIPSIS}{colon}{port}"


def _worker(worker: WorkerView, columns: int) -> Line:
    address = _shorten(_address(worker), columns)
    spans = [
        Span(f"{'w' + str(worker.number):<{LABEL}}", "dim"),
        Span(f"{address:<{columns}}  "),
        Span(f"{worker.state.value:<10}", _STYLES.get(worker.state, "")),
        Span(f"{duration(worker.seconds):>7}  "),
    ]
    if worker.unit is not None:
        unit = worker.unit
        spans.append(Span(f"model {unit.model} epoch {unit.epoch} partition {unit.partition}"))
    notes = []
    if worker.detail:
        notes.append(worker.detail)
    if worker.saves:
        notes.append(f"saves {', '.join(map(str, worker.saves))}")
    if notes:
        spans.append(Span(("; " if worker.unit is not None else "") + "; ".join(notes), "dim"))
    return tuple(spans)
