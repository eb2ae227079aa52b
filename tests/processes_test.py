"""One process alone; several are in training/devices_test.py."""

import pytest

from dpdm_jax import processes
from dpdm_jax.errors import InputError, Interrupted


def test_one_process_does_the_work_itself():
    made = object()
    assert processes.from_first(lambda: made) is made
    assert processes.first_goes_first(lambda: made) is made
    assert processes.same_arrays(made) is made
    assert processes.is_first()
    processes.check_same("Nothing", lambda: pytest.fail("there is nothing to compare"))


@pytest.mark.parametrize("kind", [InputError, ValueError, KeyboardInterrupt])
def test_one_process_raises_its_own_failures(kind):
    failure = kind()

    def fail():
        raise failure

    for run in (processes.from_first, processes.first_goes_first):
        with pytest.raises(kind) as e:
            run(fail)
        assert e.value is failure
    with pytest.raises(kind) as e, processes.together():
        fail()
    assert e.value is failure
    assert processes.is_shared(failure)


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        (InputError("x is 3; allowed: 4."), InputError, "x is 3; allowed: 4."),
        (Interrupted(15), Interrupted, ""),
        (KeyboardInterrupt(), KeyboardInterrupt, ""),
        # What an unforeseen error says may be private.
        (OSError("a private thing"), RuntimeError, "process 2 failed with OSError"),
    ],
)
def test_what_other_processes_raise(failure, kind, words):
    restored = processes._restored(processes._describe(failure), 2)
    assert type(restored) is kind
    assert words in str(restored)
    assert "private" not in str(restored)
    assert getattr(restored, "signal_number", 15) == 15
