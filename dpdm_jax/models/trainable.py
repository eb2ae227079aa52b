"""Which parameters of a network are trained: by names, as a config selects them."""

import dataclasses
import fnmatch
import re
from collections.abc import Iterable, Mapping, Set
from typing import Any

import jax

from dpdm_jax.errors import InputError
from dpdm_jax.models.identity import named_leaves
from dpdm_jax.networks import Network, Params, adapters
from dpdm_jax.networks.parts import CONDITION, ROLES, Parts, is_in

#: The field of a config.
FIELD = "train.trainable"
#: What selects every parameter.
ALL = "all"
#: What puts low-rank adapters onto attention, with their rank behind a colon.
LOW_RANK = "lora"

# Of the key that a network's parameters are drawn by.
_ADAPTERS_STREAM = 1
_NUMBER = re.compile(r"[0-9]{1,6}")
_RANGE = re.compile(r"([0-9]{1,6})-([0-9]{1,6})")
# What makes a pattern of paths of a word.
_PATTERN = re.compile(r"[*?\[/]")


@dataclasses.dataclass(frozen=True)
class Trainable:
    """What of a network is trained; paths are those of its parameters.

    Attributes:
        selector: what a config says, without blanks.
        frozen: paths of the parameters that no step changes.
        adapted: paths of the layers that get low-rank adapters, which are trained.
        rank: of those, see ``adapters.drawn``; 0 without.
    """

    selector: str = ALL
    frozen: frozenset[str] = frozenset()
    adapted: tuple[str, ...] = ()
    rank: int = 0

    def with_adapters(self, params: Params, key: jax.Array) -> Params:
        """Returns a network's parameters with the adapters that are trained.

        Args:
            params: of the network.
            key: that they were drawn by; the adapters have a stream of their own.
        """
        if not self.adapted:
            return params
        key = jax.random.fold_in(key, _ADAPTERS_STREAM)
        found = adapters.drawn(params, self.adapted, self.rank, key)
        return adapters.put_in(params, found)


def select(selector: str, network: Network) -> Trainable:
    """Reads what a config says.

    It is one of these, or several with commas between: ``all``; a role of modules, such
    as ``attention``, all of them or a range, ``attention:9-16``, counted from 1 in the
    order in which the network has them; ``lora:RANK``, low-rank adapters on the
    matrices of attention, with what embeds the condition in full beside; a pattern of
    paths, such as ``up/*/attention_?/*``, where ``*`` stands for any text.

    Parameters by which there is no gradient (``Parts.inert``) are never trained, and
    matrices that are trained in full get no adapters.

    Args:
        selector: of ``train.trainable``.
        network: whose parameters.

    Returns:
        What is trained.

    Raises:
        InputError: a part of it is unknown, or selects nothing.
    """
    known = network.parts
    if selector == ALL and not known.inert:
        return Trainable()
    shapes = named_leaves(network.shapes)
    names = shapes.keys() - _within(shapes.keys(), known.inert)

    def refusal(item: str) -> InputError:
        return InputError(
            f"{FIELD} is {selector!r}, of which {item!r} selects nothing; allowed with "
            f"this network: {_allowed(shapes, known)}, or several of these with commas "
            "between."
        )

    chosen: set[str] = set()
    ranks = []
    items = [item.strip() for item in selector.split(",")]
    for item in items:
        word, _, argument = item.partition(":")
        if word == LOW_RANK:
            ranks.append(argument)
            continue
        found = _chosen(item, names, known)
        if not found:
            raise refusal(item)
        chosen |= found
    if not ranks:
        return Trainable(",".join(items), frozenset(shapes.keys() - chosen))
    chosen |= _within(names, known.of_role(CONDITION))
    matrices = [name for name in _matrices(known) if name in names - chosen]
    if not (
        len(ranks) == 1
        and _NUMBER.fullmatch(ranks[0])
        and 1 <= int(ranks[0]) <= _largest_rank(shapes, matrices)
    ):
        raise refusal(f"{LOW_RANK}:{ranks[-1]}")
    return Trainable(
        selector=",".join(items),
        frozen=frozenset(shapes.keys() - chosen),
        adapted=tuple(name.rpartition("/")[0] for name in matrices),
        rank=int(ranks[0]),
    )


def groups(shapes: Params, known: Parts) -> dict[str, int]:
    """Counts parameters by the modules that they are in, for people.

    Args:
        shapes: parameters of a network, or some of them.
        known: of the network.

    Returns:
        Numbers of scalars, by the paths of modules with a role and the first two names
        of other paths, with * for numbers.
    """
    found: dict[str, int] = {}
    for path, leaf in named_leaves(shapes).items():
        outer = [part.path for part in known.roles if is_in(path, part.path)]
        name = min(outer, key=len) if outer else "/".join(path.split("/")[:-1][:2])
        name = re.sub("[0-9]+", "*", name or path)
        if adapters.is_of_one(path):
            name += " (adapters)"
        found[name] = found.get(name, 0) + leaf.size
    return found


def _chosen(item: str, names: Set[str], known: Parts) -> set[str]:
    """The parameters that a part of a selector names; none if it is not one."""
    if item == ALL:
        return set(names)
    if _PATTERN.search(item):
        return {name for name in names if fnmatch.fnmatchcase(name, item)}
    word, colon, argument = item.partition(":")
    if word not in ROLES:
        return set()
    modules = known.of_role(word)
    if colon:
        matched = _RANGE.fullmatch(argument)
        first, last = map(int, matched.groups()) if matched else (0, 0)
        if not 1 <= first <= last <= len(modules):
            return set()
        modules = modules[first - 1 : last]
    return _within(names, modules)


def _within(names: Iterable[str], modules: Iterable[str]) -> set[str]:
    return {name for name in names if any(is_in(name, path) for path in modules)}


def _matrices(known: Parts) -> list[str]:
    """Paths of what adapters may be added to."""
    return [adapters.kernel_of(layer) for layer in known.adapted]


def _largest_rank(shapes: Mapping[str, Any], matrices: Iterable[str]) -> int:
    return max((min(shapes[name].shape) for name in matrices), default=0)


def _allowed(shapes: Mapping[str, Any], known: Parts) -> str:
    allowed = [ALL]
    for role in ROLES:
        count = len(known.of_role(role))
        allowed += [role] if count else []
        allowed += [f"{role}:FIRST-LAST (1 to {count})"] if count > 1 else []
    largest = _largest_rank(shapes, _matrices(known))
    if largest:
        allowed.append(f"{LOW_RANK}:RANK (1 to {largest}) once")
    example = min(shapes).split("/")[0]
    return (
        f"{', '.join(allowed)}, a pattern of its parameters' paths such as {example}/*"
    )
