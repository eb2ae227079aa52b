"""The plan of a private run: every fact that its guarantee rests on, in one object."""

import dataclasses
import math
import warnings
from typing import Any

import numpy as np

from dpdm_jax import json_values, validate
from dpdm_jax.errors import InputError
from dpdm_jax.privacy import accounting, lineage, units
from dpdm_jax.privacy.batch_selection import PoissonSampling, expected_batch_size
from dpdm_jax.privacy.exact.discrete_gaussian import MAX_STDDEV, MIN_STDDEV
from dpdm_jax.privacy.exact.grid import STEPS_BITS
from dpdm_jax.privacy.queries import Query
from dpdm_jax.privacy.seen_views import SeenViews
from dpdm_jax.privacy.trained import TrainedPart

#: Steps of a new plan. Accountants take ever longer, and say nothing meanwhile.
MAX_STEPS = 10_000_000

# In what an extension may differ from the plan before it.
_MAY_EXTEND = frozenset({"num_steps", "noise_multiplier", "target_epsilon"})

# Of a plan as JSON: not there in those that have nothing of the kind.
_OPTIONAL = frozenset(
    {
        "extends",
        "queries",
        "coordinates",
        "public_data",
        "parameters",
        "trained",
        "unit",
        "views",
    }
)

# Noised sums become float32; what that does not hold would be no noise, or no number.
_LEAST_STDDEV = float(np.finfo(np.float32).tiny)
_LARGEST_STDDEV = float(np.finfo(np.float32).max)
# A clip norm has 2^28 to 2^29 steps of the grid.
_LEAST_MULTIPLIER = MIN_STDDEV / 2**STEPS_BITS
_LARGEST_MULTIPLIER = MAX_STDDEV / 2 ** (STEPS_BITS + 1)


@dataclasses.dataclass(frozen=True)
class PrivacyConfig:
    """What the user states: public facts, the budget and the clipping bound.

    Attributes:
        num_examples: N, the size of the training set in units of privacy, >= 1. It is
            treated as public.
        batch_size: B, the nominal batch size, 1 to N; sampling is at 1 / ceil(N / B)
            but with ``exact_batch_size``.
        epsilon: the budget, > 0. It is an upper limit also when ``noise_multiplier``
            is given. Infinity without a ``noise_multiplier`` means ordinary training:
            no noise and no clipping, NOT PRIVATE.
        delta: in (0, 1); below 1 / N to mean anything.
        l2_clip_norm: C, the bound on one example's contribution, > 0.
        epochs: expected passes over the data, >= 1; T = epochs * ceil(N / B).
        num_steps: T itself, >= 1; exactly one of the two is given.
        accountant: "pld" or "rdp", for calibration and for the statement.
        noise_multiplier: sigma instead of a calibrated one, >= 0; None calibrates.
        noise_multiplicity: K, the noise draws per example and step, >= 1. For
            information: it plays no part in the guarantee.
        queries: of all examples, before the first step, in order; they leave the steps
            what is left of the budget.
        public_data: what public data the run is of; "" for data that is protected. Of
            public data there is no budget: neither noise, clipping nor queries.
        coordinates: numbers in each noised sum, at most: those of the parameters, or of
            a larger query. With it epsilon includes what the exact arithmetic of
            ``clipped_grad`` and ``gaussian_noise`` adds; None leaves the arithmetic
            out of the guarantee.
        exact_batch_size: sampling at B / N, and B as the divisor.
        trained: what part of a network is trained; None for all of it, or where that is
            not stated.
        parameters: numbers of the network, for information; None where not stated.
        views: which views of an image a step sees, for information; None for the image
            as it is, or where that is not stated.
        unit: of privacy, where that is a group of examples; None for one example. N and
            B count units, and delta is to be below one over their number.
    """

    num_examples: int
    batch_size: int
    epsilon: float
    delta: float
    l2_clip_norm: float = 1.0
    epochs: int | None = None
    num_steps: int | None = None
    accountant: str = "pld"
    noise_multiplier: float | None = None
    noise_multiplicity: int = 1
    queries: tuple[Query, ...] = ()
    public_data: str = ""
    coordinates: int | None = None
    exact_batch_size: bool = False
    trained: TrainedPart | None = None
    parameters: int | None = None
    views: SeenViews | None = None
    unit: units.Group | None = None

    def __post_init__(self) -> None:
        validate.plain_fields(self)


@dataclasses.dataclass(frozen=True)
class PrivacyPlan:
    """The mechanism and its guarantee; couples sampler, noise, clipping and accountant.

    Made by ``make_plan``, stored in the ledger, and the only source of the numbers
    used in training: nothing else hands a sampling rate or a noise scale around.

    Attributes:
        sampling: which examples enter which step, for all T steps; of an extension,
            for the steps that it adds.
        num_examples: N, public; of groups where there is a ``unit``.
        expected_batch_size: the constant divisor of the noised sum.
        noise_multiplier: sigma, noise standard deviation over C; 0 is NOT PRIVATE.
        l2_clip_norm: C, the bound on one example's contribution; infinity: no clipping.
        delta: in (0, 1).
        target_epsilon: the budget asked for; infinity: none.
        epsilon: what all T steps spend, composed with those of the plans before it; at
            most ``target_epsilon``.
        accountant: "pld" or "rdp"; the source of ``epsilon``.
        noise_multiplicity: K, for information.
        relation: what the accountant reckons with, "add_or_remove_one" with N, q, T
            and the divisor fixed; that is, one example's record is replaced by nothing.
        queries: of all examples, before the run's first step, in order.
        public_data: see ``PrivacyConfig``.
        coordinates: numbers in each noised sum, at most, where sums and noise are exact
            integers; None for floating-point arithmetic, as older plans have it, or
            where the arithmetic is left out of the guarantee.
        trained: see ``PrivacyConfig``.
        parameters: likewise.
        views: likewise.
        unit: likewise.
        extends: the plan of the steps that come first, each of which counts as taken;
            None for a plan that is no extension. See ``extend_plan``.
    """

    sampling: PoissonSampling
    num_examples: int
    expected_batch_size: int
    noise_multiplier: float
    l2_clip_norm: float
    delta: float
    target_epsilon: float
    epsilon: float
    accountant: str
    noise_multiplicity: int = 1
    relation: str = accounting.RELATION
    queries: tuple[Query, ...] = ()
    public_data: str = ""
    coordinates: int | None = None
    trained: TrainedPart | None = None
    parameters: int | None = None
    views: SeenViews | None = None
    unit: units.Group | None = None
    extends: "PrivacyPlan | None" = None

    def __post_init__(self) -> None:
        validate.plain_fields(self)
        for name in ("num_examples", "expected_batch_size", "noise_multiplicity"):
            value = getattr(self, name)
            validate.integer(name, value, minimum=1, maximum=validate.MAX_COUNT)
        validate.real("noise_multiplier", self.noise_multiplier, minimum=0)
        validate.real("l2_clip_norm", self.l2_clip_norm, above=0, allow_inf=True)
        validate.real("delta", self.delta, above=0, below=1)
        validate.real("epsilon", self.target_epsilon, above=0, allow_inf=True)
        validate.real("achieved epsilon", self.epsilon, minimum=0, allow_inf=True)
        validate.one_of("accountant", self.accountant, accounting.ACCOUNTANTS)
        validate.one_of("relation", self.relation, (accounting.RELATION,))
        names = [query.name for query in self.queries]
        if len(set(names)) < len(names):
            raise InputError(
                f"the queries are {', '.join(names)}; allowed: names that differ."
            )
        if self.public_data != "":
            validate.text(
                "the name of the public data", self.public_data, *lineage.NAME
            )
            if self.queries or self.is_private or not math.isinf(self.l2_clip_norm):
                raise InputError(
                    f"the data is public ({self.public_data}) and the plan has noise, "
                    "clipping or queries; allowed: none of them."
                )
        if self.coordinates is not None:
            validate.integer("coordinates", self.coordinates, minimum=1)
        if self.parameters is not None:
            validate.integer(
                "parameters", self.parameters, minimum=1, maximum=validate.MAX_COUNT
            )
        if self.noise_multiplier > 0 and math.isinf(self.l2_clip_norm):
            raise InputError(
                f"l2_clip_norm is inf with noise_multiplier {self.noise_multiplier!r}; "
                "allowed: a finite bound, without which no noise protects anyone."
            )
        if math.isfinite(self.epsilon) and accounting.is_boundless(
            self.events(self.total_steps)
        ):
            raise InputError(
                f"achieved epsilon is {self.epsilon!r} practically without noise; "
                "allowed: inf."
            )
        if self.epsilon > self.target_epsilon:
            raise InputError(
                f"noise_multiplier is {self.noise_multiplier!r}, which spends epsilon "
                f"{self.epsilon!r}; allowed: enough noise for at most epsilon "
                f"{self.target_epsilon!r}."
            )
        if self.is_private:
            validate.real(
                "the noise's standard deviation, noise_multiplier * l2_clip_norm,",
                self.noise_stddev,
                minimum=_LEAST_STDDEV,
                maximum=_LARGEST_STDDEV,
            )
        if self.is_private and self.coordinates is not None:
            # What can be drawn, so that no step is counted that cannot be taken.
            drawn = {query.name: query.noise_multiplier for query in self.queries}
            for name, multiplier in {"steps": self.noise_multiplier, **drawn}.items():
                validate.real(
                    f"the noise_multiplier of the {name}",
                    multiplier,
                    minimum=_LEAST_MULTIPLIER,
                    maximum=_LARGEST_MULTIPLIER,
                )
        if self.extends is not None:
            mine, theirs = self._terms(), self.extends._terms()
            changed = [
                f"{name} {theirs[name]!r} -> {mine[name]!r}"
                for name in mine.keys() - _MAY_EXTEND
                if mine[name] != theirs[name]
            ]
            for name in ("parameters", "views"):
                was, now = getattr(self.extends, name), getattr(self, name)
                changed += [f"{name} {was} -> {now}"] if was != now else []
            if changed:
                raise InputError(
                    f"the extension changes {', '.join(sorted(changed))}; allowed to "
                    f"change: {', '.join(sorted(_MAY_EXTEND))}."
                )

    @property
    def is_private(self) -> bool:
        """Whether the mechanism gives any guarantee (keys are the ledger's concern)."""
        return math.isfinite(self.epsilon)

    @property
    def num_steps(self) -> int:
        """T, the steps of this plan without those of the plans that it extends."""
        return self.sampling.num_steps

    @property
    def phases(self) -> tuple["PrivacyPlan", ...]:
        """The plans of the run in the order of their steps; this is the last."""
        return (*(() if self.extends is None else self.extends.phases), self)

    @property
    def first_step(self) -> int:
        """The steps of the run that come before those of this plan."""
        return 0 if self.extends is None else self.extends.total_steps

    @property
    def total_steps(self) -> int:
        """All steps of the run that the budget covers."""
        return self.first_step + self.num_steps

    @property
    def noise_stddev(self) -> float:
        """Noise standard deviation on each entry of the clipped sum, sigma * C."""
        # Without noise C may be infinite, and 0 * inf is not a number.
        if self.noise_multiplier == 0:
            return 0.0
        return self.noise_multiplier * self.l2_clip_norm

    @property
    def max_batch_size(self) -> int:
        """A batch size that all T steps stay within but for one chance in a million."""
        return self.sampling.max_batch_size(self.num_examples)

    def indices(self, num_examples: int, seed: bytes, step: int) -> np.ndarray:
        """Returns the examples of a step; see ``PoissonSampling.indices``.

        Args:
            num_examples: the size of the data that is sampled from, >= 1.
            seed: secret bytes, at least 16 (128 bits).
            step: counted from the first of the run, so that two plans of one run never
                share a draw: ``first_step`` to ``total_steps - 1``.

        Raises:
            InputError: if a value is out of range.
        """
        validate.integer("step", step, minimum=self.first_step)
        whole = dataclasses.replace(self.sampling, num_steps=self.total_steps)
        return whole.indices(num_examples, seed, step)

    @property
    def query_events(self) -> list[accounting.Event]:
        """What comes before the first step; it counts from the run's beginning."""
        return [query.event(self.coordinates) for query in self.queries]

    def events(self, steps: int) -> list[accounting.Event]:
        """Returns a run of ``steps`` steps as the accountant takes it.

        Args:
            steps: 0 to ``total_steps``.

        Returns:
            ``query_events`` and ``step_events``.

        Raises:
            InputError: if ``steps`` is out of range.
        """
        return [*self.query_events, *self.step_events(steps)]

    def step_events(self, steps: int) -> list[accounting.Event]:
        """Returns the first ``steps`` steps of the run as the accountant takes them.

        Args:
            steps: 0 to ``total_steps``.

        Returns:
            A query for each of ``phases``, of 0 steps where it has not begun.

        Raises:
            InputError: if ``steps`` is out of range.
        """
        validate.integer("num_steps", steps, minimum=0)
        if steps > self.total_steps:
            raise InputError(
                f"num_steps is {steps}; allowed: at most {self.total_steps}, the steps "
                "of the plan."
            )
        return [
            accounting.Event(
                phase.sampling,
                phase.noise_multiplier,
                min(max(steps - phase.first_step, 0), phase.num_steps),
                phase.coordinates,
            )
            for phase in self.phases
        ]

    def epsilon_spent(self, steps: int, accountant: str | None = None) -> float:
        """Returns the epsilon at ``delta`` of the first ``steps`` steps of the run.

        Args:
            steps: steps taken, 0 to ``total_steps``.
            accountant: "pld" or "rdp"; None means the plan's.

        Raises:
            InputError: if a value is out of range.
        """
        return accounting.epsilon_of_events(
            self.events(steps), self.delta, accountant or self.accountant
        )

    def cautions(self) -> tuple[str, ...]:
        """Returns sentences on what is legal here but deserves a warning."""
        found: list[str] = []
        if self.public_data:
            return ()
        if not self.is_private:
            found.append(
                f"This run is NOT PRIVATE: with noise_multiplier "
                f"{self.noise_multiplier!r} epsilon is infinite."
            )
        if self.delta >= 1 / self.num_examples:
            one = "example" if self.unit is None else units.noun(self.unit)
            found.append(
                f"delta is {self.delta!r}, not below 1/{self.num_examples} (one over "
                f"the number of {one}s): publishing a random {one} in full would "
                "satisfy such a guarantee."
            )
        return tuple(found)

    def mechanism(self) -> dict[str, int | float | str | None]:
        """Returns the fields whose change alters what is done to the data."""
        return {
            "num_examples": self.num_examples,
            "sampling_probability": self.sampling.sampling_probability,
            "num_steps": self.num_steps,
            "expected_batch_size": self.expected_batch_size,
            "noise_multiplier": self.noise_multiplier,
            "l2_clip_norm": self.l2_clip_norm,
            "relation": self.relation,
            "queries": ", ".join(map(str, self.queries)) or "none",
            "public_data": self.public_data,
            "coordinates": self.coordinates,
            "trained": str(self.trained or "all"),
            "unit": str(self.unit or "image"),
        }

    def differences(self, other: "PrivacyPlan") -> list[tuple[str, Any, Any]]:
        """Returns (field, value here, value in ``other``) where the plans disagree.

        Covers the mechanism and the claim made for it (delta, budget, accountant), and
        those of the plans before. Not the achieved epsilon, which follows from them and
        may move in the last digit between versions of dp-accounting, nor the noise
        multiplicity.
        """
        found = [
            (name, mine, theirs)
            for (name, mine), theirs in zip(
                self._terms().items(), other._terms().values(), strict=True
            )
            if mine != theirs
        ]
        if len(self.phases) != len(other.phases):
            found.append(("number of plans", len(self.phases), len(other.phases)))
        elif self.extends is not None and other.extends is not None:
            found += [
                (f"extends.{name}", mine, theirs)
                for name, mine, theirs in self.extends.differences(other.extends)
            ]
        return found

    def _terms(self) -> dict[str, int | float | str | None]:
        return self.mechanism() | {
            "delta": self.delta,
            "target_epsilon": self.target_epsilon,
            "accountant": self.accountant,
        }

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as a dict for JSON; ``from_dict`` restores it exactly.

        Infinity, which JSON lacks, is the string "inf". The dict is flat but for
        "extends" of an extension, the dict of the plan before, and "queries", a list of
        dicts. A plan without queries has none of the latter, one without exact
        arithmetic no "coordinates", one that trains all no "trained", one that sees
        images as they are no "views", and one whose unit is an image no "unit".
        """
        fields: dict[str, Any] = self._terms() | {
            "epsilon": self.epsilon,
            "noise_multiplicity": self.noise_multiplicity,
            "parameters": self.parameters,
        }
        del fields["queries"], fields["trained"], fields["unit"]
        if not self.public_data:
            del fields["public_data"]
        if self.queries:
            fields["queries"] = [query.to_dict() for query in self.queries]
        if self.trained is not None:
            fields["trained"] = self.trained.to_dict()
        if self.views is not None:
            fields["views"] = self.views.to_dict()
        if self.unit is not None:
            fields["unit"] = self.unit.to_dict()
        present = {name: v for name, v in fields.items() if v is not None}
        fields = json_values.encode(present)
        if self.extends is not None:
            fields["extends"] = self.extends.to_dict()
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "PrivacyPlan":
        """Returns the plan that ``to_dict`` described.

        Raises:
            InputError: if a field is missing, unknown or out of range.
        """
        if not isinstance(fields, dict):
            raise InputError(
                f"the privacy plan is of type {type(fields).__name__}; allowed: a dict."
            )
        names = {f.name for f in dataclasses.fields(cls)} - {"sampling"} - _OPTIONAL
        names |= {"sampling_probability", "num_steps"}
        if set(fields) - _OPTIONAL != names:
            raise InputError(
                f"the privacy plan has the fields {', '.join(sorted(map(str, fields)))}"
                f"; allowed: exactly {', '.join(sorted(names))}."
            )
        values: dict[str, Any] = {
            name: json_values.decode(value) if isinstance(value, str) else value
            for name, value in fields.items()
        }
        if "queries" in fields:
            if not isinstance(fields["queries"], list):
                raise InputError("the queries of the privacy plan are no list.")
            values["queries"] = tuple(map(Query.from_dict, fields["queries"]))
        if "trained" in fields:
            values["trained"] = TrainedPart.from_dict(fields["trained"])
        if "views" in fields:
            values["views"] = SeenViews.from_dict(fields["views"])
        if "unit" in fields:
            values["unit"] = units.Group.from_dict(fields["unit"])
        if "extends" in fields:
            values["extends"] = cls.from_dict(fields["extends"])
        sampling = PoissonSampling(
            values.pop("sampling_probability"), values.pop("num_steps")
        )
        return cls(sampling=sampling, **values)


def _check_steps(name: str, value: object) -> int:
    return validate.integer(name, value, minimum=1, maximum=MAX_STEPS)


def make_plan(config: PrivacyConfig) -> PrivacyPlan:
    """Returns the plan of a run: calibrates the noise unless it is given.

    An infinite epsilon without a noise multiplier gives ordinary training through the
    same code: sigma 0 and C infinite. With ``noise_multiplier`` 0 the clipping bound is
    kept, to study clipping alone. Neither is private. An infinite epsilon with a
    positive noise multiplier is private and spends what that noise gives.

        >>> plan = make_plan(
        ...     PrivacyConfig(60_000, 4096, epsilon=3.0, delta=1e-5, epochs=1)
        ... )
        >>> plan.num_steps, plan.expected_batch_size, round(plan.noise_multiplier, 2)
        (15, 4000, 0.89)
        >>> plan.epsilon_spent(5) < plan.epsilon <= 3.0
        True

    Args:
        config: what the user states.

    Returns:
        The plan; its ``epsilon`` is at most ``config.epsilon``.

    Raises:
        InputError: if a value is out of range, or the noise given does not keep to the
            budget.

    Warns:
        UserWarning: for each of the plan's ``cautions``.
    """
    for name in ("num_steps", "epochs"):
        if getattr(config, name) is not None:  # before the sampler's own, larger bound
            _check_steps(name, getattr(config, name))
    sampling = PoissonSampling.from_batch_size(
        config.num_examples,
        config.batch_size,
        epochs=config.epochs,
        num_steps=config.num_steps,
        exact=config.exact_batch_size,
    )
    _check_steps("the number of steps of all epochs", sampling.num_steps)
    if config.public_data:
        config = _without_budget(config)
    validate.real("epsilon", config.epsilon, above=0, allow_inf=True)
    validate.real("delta", config.delta, above=0, below=1)
    validate.real("l2_clip_norm", config.l2_clip_norm, above=0, allow_inf=True)
    noise_multiplier, l2_clip_norm = config.noise_multiplier, config.l2_clip_norm
    before = _before(config)
    if noise_multiplier is not None:
        validate.real("noise_multiplier", noise_multiplier, minimum=0)
    else:
        noise_multiplier = accounting.calibrate_noise_multiplier(
            sampling,
            config.epsilon,
            config.delta,
            config.accountant,
            before,
            config.coordinates,
        )
        if noise_multiplier == 0:
            l2_clip_norm = math.inf
    steps = accounting.Event(
        sampling, noise_multiplier, sampling.num_steps, config.coordinates
    )
    # Plain floats, so that 10 and 10.0 are one value in plan files.
    plan = PrivacyPlan(
        sampling=sampling,
        num_examples=config.num_examples,
        expected_batch_size=expected_batch_size(
            config.num_examples, config.batch_size, exact=config.exact_batch_size
        ),
        noise_multiplier=float(noise_multiplier),
        l2_clip_norm=float(l2_clip_norm),
        delta=float(config.delta),
        target_epsilon=float(config.epsilon),
        epsilon=accounting.epsilon_of_events(
            [*before, steps], config.delta, config.accountant
        ),
        accountant=config.accountant,
        noise_multiplicity=config.noise_multiplicity,
        queries=tuple(config.queries),
        public_data=config.public_data,
        coordinates=config.coordinates,
        trained=config.trained,
        parameters=config.parameters,
        views=config.views,
        unit=config.unit,
    )
    for caution in plan.cautions():
        warnings.warn(caution, stacklevel=2)
    return plan


def _without_budget(config: PrivacyConfig) -> PrivacyConfig:
    """Returns what is left of a config where nothing is to be protected."""
    if config.noise_multiplier or config.queries:
        raise InputError(
            f"the data is public ({config.public_data}) with noise_multiplier "
            f"{config.noise_multiplier!r} and {len(config.queries)} queries; allowed: "
            "neither, or data that is protected."
        )
    return dataclasses.replace(config, epsilon=math.inf, noise_multiplier=None)


def _before(config: PrivacyConfig) -> list[accounting.Event]:
    """Returns the queries before the first step, which leave something for it."""
    events = [query.event(config.coordinates) for query in config.queries]
    if not events or math.isinf(config.epsilon):
        return events
    spent = accounting.epsilon_of_events(events, config.delta, config.accountant)
    if spent >= config.epsilon:
        listed = ", ".join(map(str, config.queries))
        raise InputError(
            f"the queries before the first step are {listed}, which spends epsilon "
            f"{spent!r}; allowed: enough noise for less than the budget of "
            f"{config.epsilon!r}."
        )
    return events


def extend_plan(
    plan: PrivacyPlan,
    *,
    num_steps: int,
    epsilon: float,
    noise_multiplier: float | None = None,
) -> PrivacyPlan:
    """Returns a plan that adds steps to a run, within a new budget for the whole of it.

    Data, sampling, clipping, divisor, delta and accountant stay. The epsilon is that of
    all steps composed, which is less than the sum of the phases' epsilons. Every step
    of ``plan`` counts, taken or not.

    Args:
        plan: of the run as it is; may itself be an extension.
        num_steps: the steps to add, >= 1.
        epsilon: the new budget of the whole run, above the present one.
        noise_multiplier: sigma of the steps added, >= 0; None calibrates it to the
            budget.

    Returns:
        The plan; its ``epsilon`` is at most the new budget.

    Raises:
        InputError: if a value is out of range, the noise does not keep to the budget,
            or the steps added would take the guarantee from a private run.

    Warns:
        UserWarning: for each of the new plan's ``cautions``.
    """
    num_steps = _check_steps("the number of steps to add", num_steps)
    epsilon, noise_multiplier = (
        validate.plain(epsilon),
        validate.plain(noise_multiplier),
    )
    validate.real("the total epsilon", epsilon, above=0, allow_inf=True)
    if epsilon <= plan.target_epsilon and math.isfinite(plan.target_epsilon):
        raise InputError(
            f"the total epsilon is {epsilon!r}; allowed: more than "
            f"{plan.target_epsilon!r}, the budget of the run as it is."
        )
    sampling = dataclasses.replace(plan.sampling, num_steps=num_steps)
    before = plan.events(plan.total_steps)
    if noise_multiplier is None:
        noise_multiplier = accounting.calibrate_noise_multiplier(
            sampling, epsilon, plan.delta, plan.accountant, before, plan.coordinates
        )
    validate.real("noise_multiplier", noise_multiplier, minimum=0)
    added = accounting.Event(sampling, noise_multiplier, num_steps, plan.coordinates)
    total = accounting.epsilon_of_events([*before, added], plan.delta, plan.accountant)
    if plan.is_private and math.isinf(total):
        raise InputError(
            f"noise_multiplier is {noise_multiplier!r}, which would leave a private "
            "run without any guarantee; allowed: a finite total epsilon, or enough "
            "noise."
        )
    extended = dataclasses.replace(
        plan,
        sampling=sampling,
        noise_multiplier=float(noise_multiplier),
        target_epsilon=float(epsilon),
        epsilon=total,
        extends=plan,
    )
    for caution in extended.cautions():
        warnings.warn(caution, stacklevel=2)
    return extended
