"""Hyper-parameter tuning: what a choice among private runs adds to epsilon.

Looking at results on private data to choose settings is a private query too. Two ways
to count it:

- ``Tuning(runs=...)``: all candidate runs compose. Everything about each of them may be
  published. Each has its own plan; the accountant is the released run's.
- ``Tuning(selection=...)``: the released run is the best of a random, secret number of
  runs of one mechanism, and nothing else is published. Cheaper for many candidates.

Both cover choices by what is itself private or public: a score on public data, on the
generated images alone, or on private images that no run was trained on and that nobody
else is promised protection for. A score computed on the protected images without noise
is a query of its own that neither covers.
"""

import dataclasses
import math
import random
from typing import Any

import scipy.optimize

from dpdm_jax import json_values, validate
from dpdm_jax.errors import InputError
from dpdm_jax.privacy import accounting, units
from dpdm_jax.privacy.ledger import LedgerRecord

# Beyond it, and below its inverse, nobody has so many runs, and quantiles are lost in
# rounding.
_LARGEST = 1e6

_NAMED_SHAPES = {0.0: "logarithmic", 1.0: "geometric", math.inf: "Poisson"}


@dataclasses.dataclass(frozen=True)
class Selection:
    """The best of a random number of runs.

    What the bound asks for: the number of runs was drawn from this distribution, by
    ``draw_num_runs``, and is kept secret; every run drew its settings from the same
    list, independently of the data, and fresh secrets; all had one sampling
    probability, noise multiplier and number of steps (learning rate, network, K and the
    like may differ); only the best one is published.

    Attributes:
        mean: expected number of runs, 1 to a million.
        shape: eta >= 0 of their number's distribution: infinity is Poisson (it may come
            out 0: then nothing is published), 1 geometric, 0 logarithmic, else
            truncated negative binomial. Smaller is more spread out, and cheaper.

    Sources: Liu, Talwar 2019 (arXiv 1811.07971) for the geometric; Papernot, Steinke
    2022 (arXiv 2110.03620), definition 1 and theorems 2 and 6.
    """

    mean: float
    shape: float = 1.0

    def __post_init__(self) -> None:
        validate.plain_fields(self)
        name = "the mean number of tuning runs"
        validate.real(name, self.mean, minimum=1, maximum=_LARGEST)
        name = "the shape of the number of tuning runs"
        validate.real(name, self.shape, minimum=0, allow_inf=True)
        if self.shape not in (0, math.inf):
            validate.real(name, self.shape, minimum=1 / _LARGEST, maximum=_LARGEST)

    @property
    def distribution(self) -> str:
        """The name of the distribution, for people."""
        return _NAMED_SHAPES.get(
            float(self.shape),
            f"truncated negative binomial of shape {float(self.shape)!r}",
        )

    def draw_num_runs(self) -> int:
        """Draws how many runs to make, from the operating system's entropy. Secret."""
        return self.num_runs(random.SystemRandom().random())

    def num_runs(self, uniform: float) -> int:
        """Returns the number of runs at a quantile.

        Args:
            uniform: in [0, 1).

        Returns:
            The number of runs, >= 1, or >= 0 if Poisson.
        """
        from scipy import stats  # takes a second

        validate.real("uniform", uniform, minimum=0, below=1)
        if math.isinf(self.shape):
            return int(stats.poisson.ppf(uniform, self.mean))
        if self.mean < 1 + 1e-9:
            return 1
        gamma = math.exp(_log_gamma(self.mean, self.shape))
        if self.shape == 0:
            return _logarithmic_quantile(uniform, gamma)
        # A negative binomial number, given that it is not 0.
        zero = gamma**self.shape
        number = stats.nbinom.ppf(zero + uniform * (1 - zero), self.shape, gamma)
        return max(1, int(number))

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values; an infinite shape is "inf"."""
        return json_values.encode({"mean": self.mean, "shape": self.shape})

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "Selection":
        """Restores what ``to_dict`` gave."""
        values = json_values.decode(fields)
        return cls(values["mean"], values["shape"])


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How the settings of a run were chosen, as far as it is counted.

    Attributes:
        runs: ledgers of the other runs that were looked at, all on the same data.
        selection: how the run was selected by itself; None if it was not.
    """

    runs: tuple[LedgerRecord, ...] = ()
    selection: Selection | None = None

    @property
    def is_counted(self) -> bool:
        """Whether anything is counted at all."""
        return bool(self.runs) or self.selection is not None

    def accountant(self, record: LedgerRecord) -> str:
        """The accountant behind the run's figure: "rdp" for a selection."""
        return record.plan.accountant if self.selection is None else "rdp"

    def not_private(self, record: LedgerRecord) -> tuple[str, ...]:
        """Reasons why run and tuning together have no guarantee; empty if they do."""
        others = [
            f"tuning run {run.run_id} is not private ({'; '.join(run.not_private)})"
            for run in self.runs
            if run.not_private
        ]
        return (*record.not_private, *others)

    def epsilon(self, record: LedgerRecord, accountant: str | None = None) -> float:
        """Returns the epsilon, at the run's delta, of the run and its tuning.

        Args:
            record: the ledger of the run.
            accountant: "pld" or "rdp"; None means ``self.accountant(record)``.

        Raises:
            InputError: a run is there twice or is of another unit of privacy, or a
                selection is to be accounted for by "pld".
        """
        accountant = accountant or self.accountant(record)
        names = [run.run_id for run in (record, *self.runs)]
        for name in names:
            if names.count(name) > 1:
                raise InputError(
                    f"Run {name} is there twice; allowed: the other runs that were "
                    "looked at, each once."
                )
        for run in self.runs:
            found, wanted = (units.in_words(r.plan.unit) for r in (run, record))
            if found != wanted:
                # What is composed must protect the same: one image of a group moves
                # the group's vector by up to two clips.
                raise InputError(
                    f"Tuning run {run.run_id} protects {found}, and the run {wanted}; "
                    "allowed: runs of one unit of privacy."
                )
        if self.not_private(record):
            return math.inf
        others = [event for run in self.runs for event in run.accounted_events()]
        if self.selection is None:
            events = [*record.accounted_events(), *others]
            return accounting.epsilon_of_events(events, record.plan.delta, accountant)
        validate.one_of("the accountant of a selection", accountant, ("rdp",))
        # As planned, not as taken: another candidate may have gone on to the end.
        planned = [
            event._replace(num_steps=event.sampling.num_steps)
            for event in record.accounted_events()
        ]
        return accounting.epsilon_of_selection(
            planned,
            self.selection.mean,
            self.selection.shape,
            record.plan.delta,
            others,
        )

    def describe(self) -> str:
        """Returns what is counted, in words."""
        parts = []
        if self.selection is not None:
            parts.append(
                "this run as the best of a random number of runs of its mechanism "
                f"({self.selection.distribution}, {self.selection.mean:g} expected) of "
                "which no other is published and whose number is secret (Papernot and "
                "Steinke 2022)"
            )
        if self.runs:
            many = "s" if len(self.runs) > 1 else ""
            parts.append(f"{len(self.runs)} other run{many}, composed")
        if not parts:
            return "Tuning is not counted."
        return f"Tuning is counted: {'; and '.join(parts)}."


#: For runs whose settings were not chosen by looking at private data, or uncounted.
NO_TUNING = Tuning()


def _logarithmic_quantile(uniform: float, gamma: float) -> int:
    """Returns the least k with P[K <= k] >= uniform (scipy's fails for large means)."""
    number, probability = 1, (gamma - 1) / math.log(gamma)
    below = probability
    # The second condition ends the sum where rounding keeps it below ``uniform``.
    while below < uniform and probability > 1e-18:
        probability *= (1 - gamma) * number / (number + 1)
        number += 1
        below += probability
    return number


def _log_gamma(mean: float, shape: float) -> float:
    """Returns ln(gamma) < 0 of the distribution of a mean > 1; see definition 1."""

    def expected(x: float) -> float:
        rest = math.expm1(shape * x) / shape if shape else x
        return math.expm1(x) / (math.exp(x) * rest)

    low = -1.0
    while expected(low) < mean:
        low *= 2
    return scipy.optimize.brentq(lambda x: expected(x) - mean, low, -1e-12)
