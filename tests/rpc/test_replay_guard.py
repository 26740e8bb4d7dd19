from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cerebro.rpc.replay_guard import WINDOW, CounterWindow, ReplayGuard, Verdict

NEAR = st.integers(1, 3 * WINDOW)
FAR = st.integers(1, 2**64 - 1)
EDGE = st.builds(lambda base, off: base * WINDOW + off, st.integers(1, 4), st.integers(-2, 2))


@given(st.lists(NEAR | EDGE | FAR, max_size=60))
def test_window_against_a_set(counters: list[int]) -> None:
    window, seen = CounterWindow(), set()
    for counter in counters:
        expected = counter not in seen and counter > max(seen, default=0) - WINDOW
        assert window.accept(counter) is expected
        if expected:
            seen.add(counter)
        assert window._seen.bit_length() <= WINDOW


def test_window_is_as_wide_as_it_says() -> None:
    window = CounterWindow()
    assert window.accept(WINDOW + 1)
    assert window.accept(2)
    assert not window.accept(1)


CLIENTS = st.sampled_from("abcdef")


@given(st.lists(st.tuples(CLIENTS, st.integers(0, 3), st.integers(1, 6)), max_size=120))
def test_nothing_is_accepted_twice_even_when_clients_are_forgotten(
    sendings: list[tuple[str, int, int]],
) -> None:
    guard, accepted = ReplayGuard(max_clients=3), set()
    for client, age, counter in sendings:
        transmission = (client, max(0, guard.admission - age), counter)
        if guard.check(*transmission) is Verdict.NEW:
            assert transmission not in accepted
            accepted.add(transmission)
        assert len(guard._windows) <= 3


def test_forgotten_client_must_say_hello_and_cannot_be_replayed() -> None:
    guard = ReplayGuard(max_clients=2)
    assert guard.check("a", 0, 1) is Verdict.NEW
    assert guard.check("b", 0, 1) is Verdict.NEW
    assert guard.check("c", 0, 1) is Verdict.NEW  # a, the longest unheard, is forgotten
    assert guard.check("a", 0, 1) is Verdict.UNKNOWN_CLIENT
    assert guard.check("a", 0, 2) is Verdict.UNKNOWN_CLIENT
    assert guard.check("b", 0, 1) is Verdict.REPLAYED
    assert guard.check("b", 0, 2) is Verdict.NEW
    assert guard.check("a", guard.admission, 2) is Verdict.NEW
    assert guard.check("a", 0, 1) is Verdict.UNKNOWN_CLIENT


def test_admission_of_the_future_is_unknown() -> None:
    assert ReplayGuard(max_clients=2).check("a", 1, 1) is Verdict.UNKNOWN_CLIENT
