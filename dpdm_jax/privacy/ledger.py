"""The ledger of a run directory: what has been spent of the privacy budget.

It is written before the work it covers, so that after a crash at any moment it counts
every step that may have touched the data. It holds public facts only, never a secret.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import re
import secrets
from typing import Any

import dpdm_jax
from dpdm_jax import files, json_values, validate
from dpdm_jax.errors import InputError
from dpdm_jax.privacy import accounting, class_moments, queries
from dpdm_jax.privacy.batch_selection import PoissonSampling
from dpdm_jax.privacy.lineage import Origin
from dpdm_jax.privacy.plan import PrivacyPlan

FILE_NAME = "privacy.json"

# What is written is of the last format; the others are upgraded on reading. The second
# was that of extended runs, the third that of runs that measured moments, the fourth
# that of runs of exact arithmetic.
_FORMATS = tuple(f"dpdm_jax privacy ledger {number}" for number in (1, 2, 3, 4, 5))
_FORMAT = _FORMATS[-1]
_FIELDS = {
    "format",
    "run_id",
    "not_private",
    "fixed_keys",
    "plan",
    "events",
    "software",
    "checksum",
}
# Where the weights that a run begins with are not random.
_LINEAGE = frozenset({"origin", "codec"})
_EVENT_FIELDS = {
    "name",
    "sampling_probability",
    "planned_steps",
    "noise_multiplier",
    "authorized_steps",
}
#: Why a run has no guarantee whose noise or batches anyone can draw again.
FIXED_KEYS = "the keys are fixed (for tests only)"
_ID = re.compile(r"[0-9a-f]{1,64}")
_ID_IN_WORDS = "hexadecimal digits, at most 64"
# Fields of a plan that no config has under their names.
_IN_WORDS = {"coordinates": "coordinates (the network's size)"}

# What is stored may differ so much, relatively, from what this accountant gives: more
# than versions of it do, and less than matters to anyone.
_TOLERANCE = 0.01


@dataclasses.dataclass(frozen=True)
class LedgerEvent:
    """One private query of the data, as far as it was authorised.

    Attributes:
        name: what it is for people, for example "training".
        sampling: which examples enter which step, for all planned steps.
        noise_multiplier: sigma, >= 0.
        authorized_steps: steps that may have run, 0 to ``sampling.num_steps``.
        extension_id: random hexadecimal name of an extension, from which and the run's
            secrets those of the extension follow; empty for the run's first steps. Not
            a secret.
        coordinates: numbers in each noised sum, at most, where the arithmetic is exact;
            None for floating-point arithmetic.
    """

    name: str
    sampling: PoissonSampling
    noise_multiplier: float
    authorized_steps: int
    extension_id: str = ""
    coordinates: int | None = None

    def __post_init__(self) -> None:
        validate.plain_fields(self)
        validate.text("the event name", self.name, *queries.NAME)
        if self.extension_id != "":
            validate.text("extension_id", self.extension_id, _ID, _ID_IN_WORDS)
        validate.real("noise_multiplier", self.noise_multiplier, minimum=0)
        validate.integer("authorized_steps", self.authorized_steps, minimum=0)
        if self.authorized_steps > self.sampling.num_steps:
            raise InputError(
                f"authorized_steps is {self.authorized_steps}; allowed: at most the "
                f"planned {self.sampling.num_steps}."
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns a JSON-ready dict that ``from_dict`` restores."""
        fields = {
            "name": self.name,
            "sampling_probability": self.sampling.sampling_probability,
            "planned_steps": self.sampling.num_steps,
            "noise_multiplier": self.noise_multiplier,
            "authorized_steps": self.authorized_steps,
        }
        if self.extension_id:
            fields["extension_id"] = self.extension_id
        if self.coordinates is not None:
            fields["coordinates"] = self.coordinates
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "LedgerEvent":
        """Returns the event that ``to_dict`` described.

        Raises:
            InputError: if a field is missing, unknown or out of range.
        """
        if (
            not isinstance(fields, dict)
            or set(fields) - {"extension_id", "coordinates"} != _EVENT_FIELDS
        ):
            raise InputError(
                "the contents are malformed: the fields of an event are not "
                f"{', '.join(sorted(_EVENT_FIELDS))}."
            )
        return cls(
            fields["name"],
            PoissonSampling(fields["sampling_probability"], fields["planned_steps"]),
            fields["noise_multiplier"],
            fields["authorized_steps"],
            fields.get("extension_id", ""),
            fields.get("coordinates"),
        )


@dataclasses.dataclass(frozen=True)
class LedgerRecord:
    """The contents of a ledger file.

    Attributes:
        run_id: random hexadecimal name that pairs the ledger with its checkpoints; not
            a secret and not derived from one.
        plan: the plan of the run, with those that it extends.
        events: every private query of the data; they compose. The last ones are the
            queries of the plan before its first step, and its phases.
        fixed_keys: whether noise or batches ever came from a fixed, known key.
        software: names and versions of what computed the figures.
        origin: whose weights the run began with; None for random ones.
        codec: whose weights the codec has; None of a codec without any.
    """

    run_id: str
    plan: PrivacyPlan
    events: tuple[LedgerEvent, ...]
    fixed_keys: bool
    software: dict[str, str]
    origin: Origin | None = None
    codec: Origin | None = None

    @property
    def phases(self) -> tuple[LedgerEvent, ...]:
        """What is counted of each of the plan's phases."""
        return self.events[-len(self.plan.phases) :]

    @property
    def authorized_steps(self) -> int:
        """Steps of the run, counted from its first, that may have run."""
        return sum(event.authorized_steps for event in self.phases)

    @property
    def not_private(self) -> tuple[str, ...]:
        """Reasons why the run has no guarantee; empty for a private run."""
        if self.plan.public_data:
            return (f"the data is public ({self.plan.public_data})",)
        reasons = []
        if not self.plan.is_private or accounting.is_boundless(self.accounted_events()):
            reasons.append("epsilon is infinite")
        if self.fixed_keys:
            reasons.append(FIXED_KEYS)
        return tuple(reasons)

    def accounted_events(self) -> list[accounting.Event]:
        """Returns the queries as the accountant takes them: all authorised steps."""
        return [
            accounting.Event(
                e.sampling, e.noise_multiplier, e.authorized_steps, e.coordinates
            )
            for e in self.events
        ]

    def epsilon_spent(self, accountant: str | None = None) -> float:
        """Returns the epsilon, at the plan's delta, of all authorised steps composed.

        Args:
            accountant: "pld" or "rdp"; None means the plan's.
        """
        events = self.accounted_events()
        if self.fixed_keys and any(event.num_steps for event in events):
            return math.inf
        return accounting.epsilon_of_events(
            events, self.plan.delta, accountant or self.plan.accountant
        )

    def continues(self, earlier: "LedgerRecord") -> bool:
        """Whether this counts all that an earlier state of the ledger did."""
        plans, begun = self.plan.phases, len(earlier.plan.phases)
        if len(self.events) < len(earlier.events) or len(plans) < begun:
            return False
        if plans[begun - 1].differences(earlier.plan):
            return False
        if (self.origin, self.codec) != (earlier.origin, earlier.codec):
            return False
        return self.fixed_keys >= earlier.fixed_keys and all(
            dataclasses.replace(now, authorized_steps=0)
            == dataclasses.replace(then, authorized_steps=0)
            and now.authorized_steps >= then.authorized_steps
            for now, then in zip(self.events, earlier.events, strict=False)
        )

    def with_authorized(self, steps: int) -> "LedgerRecord":
        """Returns the record with the run's first ``steps`` steps counted, at least."""
        counted = [
            dataclasses.replace(
                event,
                authorized_steps=max(event.authorized_steps, of_phase.num_steps),
            )
            for event, of_phase in zip(
                self.phases, self.plan.step_events(steps), strict=True
            )
        ]
        others = self.events[: -len(counted)]
        return dataclasses.replace(self, events=(*others, *counted))

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON-ready contents, checksum included."""
        fields = self._content()
        return fields | {"checksum": _checksum(fields)}

    def _content(self) -> dict[str, Any]:
        origins = {"origin": self.origin, "codec": self.codec}
        lineage = {name: o.to_dict() for name, o in origins.items() if o is not None}
        return lineage | {
            "format": _FORMAT,
            "run_id": self.run_id,
            "not_private": bool(self.not_private),
            "fixed_keys": self.fixed_keys,
            "plan": self.plan.to_dict(),
            "events": [event.to_dict() for event in self.events],
            "software": self.software,
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "LedgerRecord":
        """Returns the record that ``to_dict`` described.

        Raises:
            InputError: if anything is missing, out of range or inconsistent.
        """
        if not isinstance(fields, dict) or set(fields) - _LINEAGE != _FIELDS:
            raise InputError(f"the fields are not {', '.join(sorted(_FIELDS))}.")
        if fields["format"] not in _FORMATS:
            raise InputError(
                f"format is {fields['format']!r}; allowed: {' or '.join(_FORMATS)}."
            )
        content = {k: v for k, v in fields.items() if k != "checksum"}
        if fields["checksum"] != _checksum(content):
            raise InputError("the checksum does not match the contents.")
        try:
            upgraded = _upgraded(content)
            record = cls(
                run_id=fields["run_id"],
                plan=PrivacyPlan.from_dict(upgraded["plan"]),
                events=tuple(LedgerEvent.from_dict(e) for e in fields["events"]),
                fixed_keys=fields["fixed_keys"],
                software=fields["software"],
                origin=_origin(fields),
                codec=_codec(fields),
            )
        except (AttributeError, KeyError, RecursionError, TypeError) as e:
            raise InputError(f"the contents are malformed ({e!r}).") from None
        record._check_phases()
        validate.text("run_id", record.run_id, _ID, _ID_IN_WORDS)
        if not isinstance(record.fixed_keys, bool):
            raise InputError("fixed_keys is not true or false.")
        validate.software(record.software)
        if fields["not_private"] is not bool(record.not_private):
            raise InputError("not_private contradicts the plan and the keys.")
        record._check_epsilon()
        if record._content() != upgraded:
            raise InputError("the contents are not as this software writes them.")
        return record

    def _check_epsilon(self) -> None:
        """Makes sure that what the plans claim follows from what they do."""
        same = self.software.get("accountant") == accounting.accountant_version()
        for plan in self.plan.phases:
            given = plan.epsilon_spent(plan.total_steps)
            understated = plan.epsilon < given * (1 - _TOLERANCE)
            # Another accountant may have been less tight, which is no harm.
            overstated = same and plan.epsilon > given * (1 + _TOLERANCE)
            if understated or overstated:
                raise InputError(
                    f"plan.epsilon is {plan.epsilon!r}; its mechanism gives {given!r}."
                )

    def _check_phases(self) -> None:
        plans, events = self.plan.phases, self.phases
        if [(e.sampling, e.noise_multiplier, e.coordinates) for e in events] != [
            (p.sampling, p.noise_multiplier, p.coordinates) for p in plans
        ]:
            raise InputError("the last events are not the plan's mechanism.")
        asked = [
            (query.name, event)
            for query, event in zip(
                self.plan.queries, self.plan.query_events, strict=True
            )
        ]
        before = [
            (event.name, accounted)
            for event, accounted in zip(
                self.events, self.accounted_events(), strict=True
            )
        ][: -len(plans)]
        if before[len(before) - len(asked) :] != asked:
            raise InputError("the plan's queries are not those before the steps.")
        if [bool(e.extension_id) for e in events] != [
            plan.extends is not None for plan in plans
        ]:
            raise InputError("extensions, and they alone, have an extension_id.")
        if self.with_authorized(self.authorized_steps) != self:
            raise InputError("steps are counted before those that come first.")


class Ledger:
    """The ledger under a run: authorises steps before they run.

    A training loop calls ``authorize(n)`` before any of the steps 0 to n - 1 touches
    the data; authorising some steps ahead saves writes, and after a crash counts steps
    that did not run, which is safe.
    """

    def __init__(self, path: pathlib.Path, record: LedgerRecord):
        self._path = path
        self._record = record

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        plan: PrivacyPlan,
        *,
        fixed_keys: bool = False,
        origin: Origin | None = None,
        codec: Origin | None = None,
    ) -> "Ledger":
        """Writes the ledger of a new run, with no step authorised yet.

        Args:
            path: the file to create, in an existing directory.
            plan: the plan of the run.
            fixed_keys: whether noise or batches come from a fixed key; NOT PRIVATE.
            origin: whose weights the run begins with; None for random ones.
            codec: whose weights the codec has; None of a codec without any.

        Raises:
            InputError: if the file exists or cannot be written.
        """
        path = pathlib.Path(path)
        if path.exists():
            raise InputError(
                f"the privacy ledger {path} exists; allowed: resume that run, or begin "
                "in a new directory."
            )
        training = LedgerEvent(
            "training",
            plan.sampling,
            plan.noise_multiplier,
            0,
            coordinates=plan.coordinates,
        )
        record = LedgerRecord(
            run_id=secrets.token_hex(16),
            plan=plan,
            # Queries count at once: nothing that is written later is to be waited for.
            events=(
                *(
                    LedgerEvent(query.name, *event[:3], coordinates=event.coordinates)
                    for query, event in zip(
                        plan.queries, plan.query_events, strict=True
                    )
                ),
                training,
            ),
            fixed_keys=fixed_keys,
            software=_software(),
            origin=origin,
            codec=codec,
        )
        _write(path, record)
        return cls(path, record)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        plan: PrivacyPlan,
        *,
        fixed_keys: bool = False,
    ) -> "Ledger":
        """Opens the ledger of a run to be resumed.

        Args:
            path: the file.
            plan: the plan that the run was begun with; extensions are in the ledger.
            fixed_keys: whether it would go on with a fixed key; once true this stays.

        Raises:
            InputError: if the file is missing or damaged, or if ``plan`` is another
                mechanism or another claim than the ledger's (the fields are listed).
        """
        path = pathlib.Path(path)
        record = read_ledger(path)
        if record.plan.coordinates is None and plan.coordinates is not None:
            raise InputError(
                f"the run of the ledger {path} was begun with floating-point noise, "
                "which is no longer drawn; allowed: finish it with the version of "
                "dpdm_jax that began it, or begin in a new directory."
            )
        changes = record.plan.phases[0].differences(plan)
        if changes:
            listed = ", ".join(
                f"{_IN_WORDS.get(name, name)} {old!r} -> {new!r}"
                for name, old, new in changes
            )
            raise InputError(
                f"the plan differs from the ledger {path}: {listed}; allowed: resume "
                "under the same plan, extend it by an explicit one (--mode=extend), or "
                "begin in a new directory."
            )
        ledger = cls(path, record)
        if fixed_keys and not record.fixed_keys:
            ledger._replace(dataclasses.replace(record, fixed_keys=True))
        return ledger

    @property
    def record(self) -> LedgerRecord:
        """The contents, as last read or written by this object."""
        return self._record

    @property
    def plan(self) -> PrivacyPlan:
        """The plan of the run, extensions included."""
        return self._record.plan

    @property
    def run_id(self) -> str:
        """The random name that pairs the ledger with its checkpoints."""
        return self._record.run_id

    @property
    def authorized_steps(self) -> int:
        """Steps of the run, counted from its first, that may have run."""
        return self._record.authorized_steps

    def epsilon_spent(self) -> float:
        """Returns the epsilon of all authorised steps; changes nothing."""
        return self._record.epsilon_spent()

    def authorize(self, up_to_step: int) -> None:
        """Counts the steps 0 to ``up_to_step - 1`` as spent, durably.

        Steps counted before stay counted: a smaller number changes nothing.

        Args:
            up_to_step: number of steps of the run that may have run after this call.

        Raises:
            InputError: if that is beyond the plan, or the file was damaged, replaced by
                another run's, or cannot be written. Then no further step may run.
        """
        up_to_step = validate.integer("up_to_step", up_to_step, minimum=0)
        planned = self.plan.total_steps
        if up_to_step > planned:
            raise InputError(
                f"the privacy budget is spent: step {up_to_step} was asked for; "
                f"allowed: the {planned} planned steps."
            )
        if up_to_step <= self.authorized_steps:
            return
        self._replace(self._read_again().with_authorized(up_to_step))

    def extend(self, plan: PrivacyPlan) -> None:
        """Adds the steps of a plan behind those planned so far, durably; counts none.

        Args:
            plan: what ``extend_plan`` made of this ledger's plan.

        Raises:
            InputError: if it extends another plan, or the file was damaged, replaced by
                another run's, or cannot be written.
        """
        current = self._read_again()
        if plan.extends is None or plan.extends.differences(current.plan):
            raise InputError(
                f"the plan does not extend that of the ledger {self._path}; allowed: "
                "an extension of the run's plan as it is."
            )
        event = LedgerEvent(
            f"extension {len(current.phases)}",
            plan.sampling,
            plan.noise_multiplier,
            0,
            secrets.token_hex(16),
            plan.coordinates,
        )
        self._replace(
            dataclasses.replace(
                current,
                plan=plan,
                events=(*current.events, event),
                software=_software(),
            )
        )

    def _read_again(self) -> LedgerRecord:
        # The file, not this object's memory of it, is what later runs will believe.
        current = read_ledger(self._path)
        if current.run_id != self.run_id or current.plan.differences(self.plan):
            raise InputError(
                f"the privacy ledger {self._path} was replaced by another run's; "
                "allowed: one run in a directory."
            )
        return current

    def _replace(self, record: LedgerRecord) -> None:
        _write(self._path, record)
        self._record = record


def read_ledger(path: str | os.PathLike[str]) -> LedgerRecord:
    """Returns the contents of a ledger file without changing it.

    Raises:
        InputError: if the file is missing, unreadable or damaged.
    """
    path = pathlib.Path(path)
    try:
        fields = json_values.loads(path.read_bytes())
        return LedgerRecord.from_dict(fields)
    except OSError as e:
        raise InputError(
            f"the privacy ledger {path} cannot be read ({e.strerror}); allowed: the "
            f"{FILE_NAME} of a run directory."
        ) from None
    except ValueError as e:
        raise InputError(
            f"the privacy ledger {path} is damaged ({str(e).rstrip('.')}); allowed: an "
            "unaltered file, without which the budget spent is unknown."
        ) from None


def _origin(fields: dict[str, Any]) -> Origin | None:
    if "origin" not in fields:
        return None
    origin = Origin.from_dict(fields["origin"])
    if origin.ledger is not None:
        parent = LedgerRecord.from_dict(origin.ledger)
        if parent.not_private:
            raise InputError("the origin's ledger gives no guarantee.")
    return origin


def _codec(fields: dict[str, Any]) -> Origin | None:
    if "codec" not in fields:
        return None
    origin = Origin.from_dict(fields["codec"])
    if origin.ledger is not None:
        raise InputError("the codec was not trained on public data.")
    return origin


def _upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """Returns what a ledger of an older format says in the words of the last.

    Raises:
        InputError: its format is that of another kind of plan.
    """
    if content["format"] == _FORMAT:
        return content
    for name in _LINEAGE & content.keys():
        raise InputError(f"the contents have the {name}, which their format has not.")
    plan = content["plan"]
    kind = 0 if "extends" not in plan else 1
    if "moments_noise_multiplier" in plan:
        kind = 2
    if "coordinates" in plan:
        kind = 3
    if content["format"] != _FORMATS[kind]:
        raise InputError("the format is that of another kind of plan.")
    return content | {"format": _FORMAT, "plan": _upgraded_plan(plan)}


def _upgraded_plan(plan: dict[str, Any]) -> dict[str, Any]:
    """Names the only queries that there were: two of moments, or as many as it says."""
    for name in ("queries", "parameters", "trained", "unit", "views"):
        if name in plan:
            raise InputError(f"the privacy plan has {name}, which its format has not.")
    plan = dict(plan)
    if "extends" in plan:
        plan["extends"] = _upgraded_plan(plan["extends"])
    if "moments_noise_multiplier" in plan:
        query = {
            "name": class_moments.NAME,
            "count": plan.pop("moments_queries", 2),
            "noise_multiplier": plan.pop("moments_noise_multiplier"),
        }
        plan["queries"] = [query]
    return plan


def _software() -> dict[str, str]:
    return {
        "accountant": accounting.accountant_version(),
        "dpdm_jax": dpdm_jax.__version__,
    }


def _checksum(fields: dict[str, Any]) -> str:
    """Returns a digest against accidental damage; it does not stop forgery."""
    content = json.dumps(fields, sort_keys=True, allow_nan=False)
    return hashlib.sha256(content.encode()).hexdigest()


def _write(path: pathlib.Path, record: LedgerRecord) -> None:
    """Replaces the file; no step may run unless this returns."""
    text = json.dumps(record.to_dict(), indent=2, allow_nan=False) + "\n"
    with files.replacing(path, f"the privacy ledger {path}") as temporary:
        temporary.write_text(text, encoding="utf-8")
