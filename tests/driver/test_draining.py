"""A worker that is drained: its unit counts, the others go elsewhere, and it ends by itself."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from exact import check_exact
from patience import SOON
from test_faults import search, when
from toy import functions

import cerebro
from cerebro.cli.main import main
from cerebro.journal.journal import read_journal
from cerebro.journal.paths import RunPaths


def test_a_drained_worker_ends_its_unit_and_leaves(start_worker, secret_file, tmp_path, capsys):
    """With a heartbeat time that nobody here waits for."""
    first, second = start_worker(), start_worker()
    fifo, release, ran = (str(tmp_path / name) for name in ("fifo", "release", "ran"))
    input_fn, model_fn, train_fn, eval_fn = functions(2)
    daemon, ends = first.process.pid, []

    def counted(model, data, train=True):
        import os
        import time

        with open(ran, "a") as file:
            file.write("a unit\n")
        if os.getppid() == daemon and not os.path.exists(release):
            with open(fifo, "w"):
                pass
            while not os.path.exists(release):
                time.sleep(0.01)
        return train_fn(model, data, train)

    def drain():
        command = ["workers", second.url, "--drain", first.url, "--secret-file", secret_file]
        ends.append(main(command))
        Path(release).touch()
        ends.append(first.process.wait(SOON))
        ends.append(time.monotonic())

    thread = when(fifo, drain)
    result = search(
        [first.url, second.url],
        tmp_path,
        (input_fn, model_fn, counted, eval_fn),
        secret_file,
        heartbeat=600.0,
    )
    thread.join(SOON)
    assert ends[:2] == [0, 0]
    check_exact(result, 2)
    assert set(result.units["outcome"]) == {"committed"}
    assert len(Path(ran).read_text().splitlines()) == len(result.units)
    records, _ = read_journal(RunPaths(result.run_dir))
    own = [r for r in records if getattr(r, "worker", None) == 0]
    kinds = [r.state.value if r.kind == "worker" else r.kind for r in own]
    assert kinds[kinds.index("draining") :] == ["draining", "left"], "nothing was started there"
    shown = capsys.readouterr()
    (row,) = [line for line in shown.out.splitlines() if "DRAINING" in line]
    assert row.startswith(first.url)
    assert "running model" in row
    assert f"worker 0 ({first.url}) left: it was drained" in shown.err
    assert "no connection" not in shown.err, "that it ended is no trouble to be told of"


def test_a_drained_worker_takes_part_again_when_it_is_started_again(
    start_worker, secret_file, tmp_path
):
    """It is the only one: the run waits for it."""
    first = start_worker()
    fifo = str(tmp_path / "fifo")
    input_fn, model_fn, train_fn, eval_fn = functions(2)
    daemon = first.process.pid

    def telling(model, data, train=True):
        import os
        import stat

        if os.getppid() == daemon and stat.S_ISFIFO(os.stat(fifo).st_mode):
            with open(fifo, "w"):
                pass
            os.rename(fifo, fifo + "-told")
            with open(fifo, "w"):
                pass
        return train_fn(model, data, train)

    def drain():
        main(["workers", "--drain", first.url, "--secret-file", secret_file])
        first.process.wait(SOON)
        start_worker(port=int(first.url.rpartition(":")[2]))

    thread = when(fifo, drain)
    fns = (input_fn, model_fn, telling, eval_fn)
    result = search([first.url], tmp_path, fns, secret_file, heartbeat=600.0)
    thread.join(SOON)
    check_exact(result, 2)
    records, _ = read_journal(RunPaths(result.run_dir))
    states = [r.state.value for r in records if r.kind == "worker"]
    assert states == ["joined", "ready", "draining", "left", "joined", "ready"]


@pytest.mark.processes
def test_a_worker_of_a_local_cluster_can_be_drained(tmp_path, capsys):
    with cerebro.LocalCluster(2, threads=1) as cluster:
        command = ["workers", "--drain", cluster.urls[0], "--secret-file", cluster.secret_file]
        assert main(command) == 0
        assert "DRAINING: free, then exits" in capsys.readouterr().out
        assert cluster._processes[0].wait(SOON) == 0
        result = search(cluster.urls, tmp_path, functions(1), cluster.secret_file)
        check_exact(result, 1)
        assert set(result.units["worker"]) == {1}
