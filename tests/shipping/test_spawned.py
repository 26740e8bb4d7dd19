"""Processes that user code starts by spawn or forkserver have its functions, too."""

from __future__ import annotations

SCRIPT = """
import concurrent.futures
import multiprocessing
import helpers

FACTOR = 3

class Job:
    def __init__(self, x):
        self.x = x

def scaled(job):
    return Job(job.x * FACTOR)

def square(x):
    return x * x

def fails(x):
    raise ValueError(f"not {x}")

def started(queue):
    queue.put(square(7))

def probe():
    answer = {}
    for method in ("spawn", "forkserver", "fork"):
        context = multiprocessing.get_context(method)
        with context.Pool(2) as pool:
            answer[method] = pool.map(square, [1, 2, 3])
            answer[method] += [job.x for job in pool.map(scaled, [Job(2)])]
            answer[method] += pool.map(helpers.cube, [2])
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        answer["executor"] = list(pool.map(square, [4]))
        try:
            pool.submit(fails, 5).result()
        except ValueError as error:
            answer["error"] = str(error)
    with context.Pool(1) as pool:
        try:
            pool.map(lambda x: x, [1])
        except Exception as error:
            answer["lambda"] = type(error).__name__
    queue = context.Queue()
    process = context.Process(target=started, args=(queue,))
    process.start()
    answer["process"] = queue.get(timeout=60)
    process.join()
    return answer
"""


def test_pools_of_every_method(ship):
    call = """
    from cerebro import shipping
    shipping.share_with_children(open("../blob", "rb").read())
    answer = probe()
    """
    files = {"helpers.py": "def cube(x):\n    return x ** 3\n"}
    answer = ship(SCRIPT, ["probe"], call, files)
    for method in ("spawn", "forkserver", "fork"):
        assert answer[method] == [1, 4, 9, 6, 8], method
    assert answer["executor"] == [16]
    assert answer["error"] == "not 5"
    assert answer["lambda"] in ("PicklingError", "AttributeError")
    assert answer["process"] == 49
