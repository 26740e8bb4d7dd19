"""A paragraph on a run for the methods section of a paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from cerebro.backends import TENSORFLOW
from cerebro.formatting import count, metric_name, shown
from cerebro.hopper.units import ModelState, Split
from cerebro.journal.best import best_so_far
from cerebro.journal.ledger import Ledger
from cerebro.journal.run_plan import hyperparameters
from cerebro.report.axes import varying
from cerebro.results.tables import means, metric_names

VALUES_NAMED = 8
"""So many values of a hyperparameter are named; of more, how many and between which."""


def paragraph(ledger: Ledger, platform: str = "") -> str:
    """Write plain sentences: data, partitions, grid, epochs, seed, determinism, versions, faults.

    What a run does not know (where the data come from, what was left out of it) is not in it.
    """
    sentences = [
        *_search(ledger),
        *_data(ledger),
        *_epochs(ledger),
        *_reproducible(ledger),
        *_machines(ledger, platform),
        *_faults(ledger),
        *_best(ledger),
    ]
    return " ".join(sentences)


def _search(ledger: Ledger) -> list[str]:
    plan = ledger.the_plan
    version = ledger.generations[-1].versions.get("cerebro", "")
    configs = [hyperparameters(model.mst) for model in ledger.models.values()]
    did = "compared" if len(configs) > 1 else "trained"
    first = (
        f"We {did} {count(len(configs), 'configuration')} by model hopper parallelism "
        f"(Nakandala, Zhang and Kumar, PVLDB 13(11), 2020), with Cerebro standalone {version}"
    )
    found = [first.rstrip() + "."]
    names = varying(configs)
    if names:
        values = {
            name: list(dict.fromkeys(shown(c[name]) for c in configs if name in c))
            for name in names
        }
        size = math.prod(map(len, values.values()))
        distinct = {tuple(shown(c.get(name)) for name in names) for c in configs}
        grid = len(configs) == size == len(distinct)
        kind = "They were the full grid over" if grid else "They differed in"
        listed = _joined([_values(name, configs, of) for name, of in values.items()])
        found.append(f"{kind} {listed}.")
    same = [name for name in dict.fromkeys(n for c in configs for n in c) if name not in names]
    if same and configs:
        common = _joined([f"{name} {shown(configs[0][name])}" for name in same])
        found.append(f"All had {common}.")
    if plan.search is not None:
        found.append(f"They were found, and stopped, by the search procedure {plan.search}.")
    added = len(configs) - len(ledger.configs) if plan.search is None else 0
    if added:
        warm = sum(model.parent is not None for model in ledger.models.values())
        began = f", {warm} of which began with the weights of another" if warm else ""
        found.append(f"The procedure added {added} of them while the search went on{began}.")
    return found


def _values(name: str, configs: Sequence[dict[str, Any]], values: list[str]) -> str:
    if len(values) <= VALUES_NAMED:
        return f"{name} ({', '.join(values)})"
    given = [config[name] for config in configs if name in config]
    try:
        ends = f", {shown(min(given))} to {shown(max(given))}"
    except TypeError:
        ends = ""
    return f"{name} ({len(values)} values{ends})"


def _data(ledger: Ledger) -> list[str]:
    plan = ledger.the_plan
    train, valid = len(plan.train_partitions), len(plan.valid_partitions)
    examples = {split: _examples(ledger, split) for split in Split}

    def holding(split: Split) -> str:
        number = examples[split]
        return "" if number is None else f" ({number:,} examples)"

    text = f"The training data lay in {count(train, 'partition')}{holding(Split.TRAIN)}"
    if valid:
        text += f", the validation data in {valid}{holding(Split.VALID)}"
    found = [
        text + ".",
        "In every epoch each model was trained on each training partition once, one after the "
        "other, in an order that depended on which workers were free and is recorded.",
    ]
    if valid:
        found.append("After every epoch it was evaluated on all validation partitions.")
    weighted = any(number is not None for number in examples.values())
    how = "weighted by their numbers of examples" if weighted else "unweighted"
    exact = _exact(ledger)
    if exact:
        found.append(
            f"Of an epoch, {_joined([_words(name) for name in exact])} "
            f"{'was' if len(exact) == 1 else 'were'} computed over all validation examples "
            f"together; all other metrics are means over partitions, {how}."
        )
    else:
        found.append(f"Losses and errors of an epoch are means over partitions, {how}.")
    return found


def _exact(ledger: Ledger) -> list[str]:
    """List the metrics that are no means over partitions in any epoch that has them."""
    epochs = [epoch for model in ledger.models.values() for epoch in model.epochs]
    measured = {name for epoch in epochs for name in epoch.exact}
    return [name for name in metric_names(ledger) if name in measured - set(means(ledger))]


def _words(metric: str) -> str:
    """Return a metric's name as a paper has it."""
    if metric.startswith("valid_"):
        return f"validation {metric_name(metric.removeprefix('valid_'))}"
    return metric_name(metric)


def _examples(ledger: Ledger, split: Split) -> int | None:
    """Count the examples in a split's partitions, as `train_fn` says; None if it does not."""
    plan = ledger.the_plan
    paths = plan.partitions(split)
    found: dict[int, float] = {}
    for attempt in ledger.attempts.values():
        number = None if attempt.committed is None else attempt.committed.examples
        if attempt.unit.split is split and number is not None:
            found[attempt.unit.partition] = number
    return round(sum(found.values())) if paths and len(found) == len(paths) else None


def _epochs(ledger: Ledger) -> list[str]:
    states = [model.state for model in ledger.models.values()]
    found = []
    ended = [len(m.epochs) for m in ledger.models.values() if m.state is ModelState.COMPLETED]
    if ended:
        least, most = min(ended), max(ended)
        span = count(most, "epoch") if least == most else f"{least} to {most} epochs"
        found.append(f"{_models(len(ended))} trained for {span}.")
    for state, what in (
        (ModelState.STOPPED, "stopped early by the search procedure"),
        (ModelState.FAILED, "ended by an error and left out"),
        (ModelState.RUNNING, "not trained to the end when this was written"),
    ):
        if state in states:
            found.append(f"{_models(states.count(state))} {what}.")
    return found


def _models(number: int) -> str:
    return f"{count(number, 'model')} {'was' if number == 1 else 'were'}"


def _reproducible(ledger: Ledger) -> list[str]:
    plan = ledger.the_plan
    own = sum("seed" in model.mst for model in ledger.models.values())
    seeds = f"All random numbers were seeded from the seed {plan.seed}"
    if own:
        seeds += f" ({_models(own).rsplit(' ', 1)[0]} had a seed of their own)"
    found = [
        seeds + ", by model, epoch and partition, and not by the machine that trained.",
        "Deterministic operations were asked for."
        if plan.deterministic
        else "Deterministic operations were not asked for, so results need not be the same again "
        "to the last bit.",
    ]
    if plan.replay:
        found.append("The run repeats the visit orders and decisions of an earlier one.")
    return found


def _machines(ledger: Ledger, platform: str) -> list[str]:
    versions = ledger.generations[-1].versions
    backend = ledger.the_plan.backend
    names = {"python": "Python"}
    if backend in TENSORFLOW:
        names["tensorflow"] = "TensorFlow"
    if backend == "keras":
        names["keras"] = "Keras"
    names["numpy"] = "NumPy"
    used = [f"{name} {versions[key]}" for key, name in names.items() if versions.get(key)]
    kinds: dict[str, int] = {}
    for worker in ledger.workers.values():
        facts = worker.facts
        if facts:
            devices = ", ".join(dict.fromkeys(map(str, facts.get("devices", [])))) or "no device"
            kind = f"{devices}, {count(facts.get('threads') or 1, 'thread')} each"
            kinds[kind] = kinds.get(kind, 0) + 1
    of = _joined([f"{number} with {kind}" for kind, number in kinds.items()])
    text = f"We used {_joined(used)} on {count(sum(kinds.values()), 'worker')}"
    text += f" ({of})" if of else ""
    text += f"; the driver ran on {platform}" if platform else ""
    return [text + "."]


def _faults(ledger: Ledger) -> list[str]:
    resumed = len(ledger.generations) - 1
    found = []
    if ledger.faults:
        kinds = [f"{kind} ({number})" for kind, number in sorted(ledger.faults.items())]
        found.append(
            f"Faults on the way were {_joined(kinds)}; units concerned were run again from the "
            "version that they started from, so that each counts exactly once."
        )
    else:
        found.append("There were no faults on the way.")
    if resumed:
        found.append(f"The search was interrupted and resumed {count(resumed, 'time')}.")
    return found


def _best(ledger: Ledger) -> list[str]:
    found = best_so_far(ledger)
    if found is None:
        return []
    model, epoch = found
    config = _joined([f"{name} {shown(v)}" for name, v in hyperparameters(model.mst).items()])
    metric, lowest = ledger.the_plan.metric, ledger.the_plan.mode == "min"
    value = epoch.metric(metric)
    return [
        f"The {'lowest' if lowest else 'highest'} {_words(metric)} was {value:.4g}, of model "
        f"{model.id} after epoch {epoch.epoch} (epochs count from 0)"
        f"{f', with {config}' if config else ''}.",
        f"As it chose the model, this figure is biased {'downwards' if lowest else 'upwards'}: "
        f"report {'the error' if metric == 'valid_error' else 'it'} on data that took no part in "
        "the search.",
    ]


def _joined(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
