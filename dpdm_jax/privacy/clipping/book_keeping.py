"""Clipped sums without ever holding the batch's per-example gradients.

Back-propagation to the *sites* of a loss (see ``program``) costs no weight gradient.
Its book, what every site took from the example and the gradient by what it gave, is
enough to compute any example's gradient of a few parameters at a time (Bu et al. 2022,
arXiv 2210.00038). Two sweeps over the book do so for a few examples at a time: the
first gathers the norms, the second adds up the clipped gradients.

The textbook form replaces the second sweep by one gradient of the weighted losses. That
is cheaper where many rows share parameters, but what it adds is not the vector whose
norm was taken: it differs by the rounding of another order of summation, by much in
bfloat16 or where terms cancel, and altogether under a ``custom_vjp`` whose backward
rule is not linear. Then the clip norm bounds nothing. Here both sweeps are one compiled
loop, so the vector that is added is the one that was measured.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import primitives

from dpdm_jax.privacy.clipping.arithmetic import (
    Arithmetic,
    Cells,
    ExactArithmetic,
    Joined,
)
from dpdm_jax.privacy.clipping.base import (
    Aux,
    ClippedSum,
    LossAndAux,
    PyTree,
    batch_size,
    manual_axes,
    shape_of_one,
    vary,
)
from dpdm_jax.privacy.clipping.program import (
    Number,
    Operation,
    Program,
    Values,
    trace,
)
from dpdm_jax.privacy.exact.norms import nested_sum

#: Per-example gradients held at once, of one group of parameters, in bytes. Enough for
#: whole batches of ordinary layers, little beside the activations of such batches.
GROUP_BYTES = 2**26


def book_keeping_engine(
    loss: LossAndAux,
    params: PyTree,
    batch: PyTree,
    is_padding: jax.Array,
    arithmetic: Arithmetic,
    total: Cells,
) -> ClippedSum:
    """An engine that holds activations of the batch, but gradients of a few examples.

    Memory grows with b times the activations, about twice those of an ordinary
    gradient; of per-example gradients it holds ``GROUP_BYTES``, or one example's
    gradient of the largest group of parameters that share an operation. It computes
    every weight gradient twice.

    Args:
        loss: see ``LossAndAux``.
        params: what to differentiate by.
        batch: tuple of arguments, each with leading axis b.
        is_padding: bool [b].
        arithmetic: how gradients are clipped and added.
        total: the sum to add to.

    Returns:
        The clipped sum and the per-example by-products.
    """
    size = batch_size(batch)
    # From shapes alone: an empty batch has no first example.
    program = trace(loss, params, shape_of_one(batch))
    shared = dict(program.constants)
    shared.update(zip(program.param_numbers, jax.tree.leaves(params), strict=True))
    for operation in program.shared:
        operation.apply(shared)
    (values, aux), book = _back_propagate(program, shared, batch)
    groups = _pack(_groups(program), shared, size) if size else []
    counts = ~is_padding

    def sweep(
        carry: tuple[jax.Array, jax.Array, Cells], _: None
    ) -> tuple[tuple[jax.Array, jax.Array, Cells], None]:
        factors, sums = carry[0], list(carry[2])
        measured = []
        for group in groups:
            part = [sums[i] for i in group.leaves]
            given = (group, shared, book, counts, factors)
            if group.is_rank_one and isinstance(arithmetic, ExactArithmetic):
                part, *found = _add_outer_products(*given, arithmetic, part)
            else:
                part, *found = _add_gradients(*given, arithmetic, part)
            measured.append(found)
            for i, leaf in zip(group.leaves, part, strict=True):
                sums[i] = leaf
        if measured:
            each, roundings = zip(*measured, strict=True)
            squares, more = nested_sum(jnp.stack(each, axis=1))
            factors = arithmetic.factors(squares, max(roundings) + more, counts)
        else:
            squares = factors
        return (factors, squares, sums), None

    # Factors of 0 add nothing: the first sweep only measures.
    nothing = vary(jnp.zeros((size,), jnp.float32), manual_axes((batch, is_padding)))
    (_, squares, total), _ = lax.scan(sweep, (nothing, nothing, total), length=2)
    return ClippedSum(total, Aux(values, arithmetic.norms(squares), aux))


class Book(NamedTuple):
    """What back-propagation leaves for the weight gradients, by value number.

    Attributes:
        inputs: [b, ...], what the sites took from the examples.
        gradients: [b, ...], gradient of each example's loss by what the sites gave.
    """

    inputs: Values
    gradients: Values

    def of(self, group: "Group") -> "Book":
        """The entries that a group needs."""
        inputs = {i for site in group.sites for i in site.inputs}
        outputs = {i for site in group.sites for i in site.outputs}
        return Book(
            {i: self.inputs[i] for i in inputs & self.inputs.keys()},
            {i: self.gradients[i] for i in outputs & self.gradients.keys()},
        )


@dataclasses.dataclass(frozen=True)
class Group:
    """Parameters whose gradients have to be computed together, and their sites.

    Attributes:
        leaves: numbers of the parameters.
        views: the operations that lead from the parameters to the sites.
        sites: all sites that these parameters, and no others, take part in.
        is_rank_one: see ``_is_rank_one``.
    """

    leaves: tuple[Number, ...]
    views: list[Operation]
    sites: list[Operation]
    is_rank_one: bool

    def gradient(self, shared: Values, book: Book) -> Values:
        """One example's gradient by the parameters, given its part of the book."""

        def outputs(leaves: Values) -> Values:
            values = shared | book.inputs | leaves
            for view in self.views:
                view.apply(values)
            # Apart from the values: what one site gives, another one may take, and the
            # gradient on that way is in the book already.
            results: Values = {}
            for site in self.sites:
                outputs = site.run(*(values[i] for i in site.inputs))
                results |= zip(site.outputs, outputs, strict=True)
            return {i: results[i] for i in book.gradients}

        _, pull = jax.vjp(outputs, {i: shared[i] for i in self.leaves})
        return pull(book.gradients)[0]


def _groups(program: Program) -> list[Group]:
    """Splits the sites so that no parameter takes part in two groups."""
    groups: list[tuple[frozenset[Number], list[Operation]]] = []
    for site in filter(program.tapped_outputs, program.of_example):
        leaves, sites = program.leaves_of(site), [site]
        apart = []
        for other_leaves, other_sites in groups:
            if leaves & other_leaves:
                leaves, sites = leaves | other_leaves, other_sites + sites
            else:
                apart.append((other_leaves, other_sites))
        groups = [*apart, (leaves, sites)]

    def group(leaves: frozenset[Number], sites: list[Operation]) -> Group:
        views = program.slice_to(i for site in sites for i in site.inputs)
        is_rank_one = len(sites) == 1 and _is_rank_one(program, views, sites[0])
        return Group(tuple(sorted(leaves)), views, sites, is_rank_one)

    return [group(*entry) for entry in groups]


def _pack(groups: list[Group], shared: Values, size: int) -> list[Group]:
    """Merges small groups: tracing and compiling take their time for each."""
    packed: list[Group] = []
    pending: list[Group] = []
    pending_bytes = 0
    for group in groups:
        held = size * _gradient_bytes(group.leaves, shared)
        if group.is_rank_one or held > GROUP_BYTES:
            packed.append(group)
            continue
        if pending_bytes + held > GROUP_BYTES:
            packed.append(_merge(pending))
            pending, pending_bytes = [], 0
        pending.append(group)
        pending_bytes += held
    return [*packed, _merge(pending)] if pending else packed


def _merge(groups: list[Group]) -> Group:
    return Group(
        leaves=tuple(i for group in groups for i in group.leaves),
        views=[view for group in groups for view in group.views],
        sites=[site for group in groups for site in group.sites],
        is_rank_one=False,
    )


def _gradient_bytes(leaves: Iterable[Number], shared: Values) -> int:
    """Size of one example's gradient in float32."""
    return 4 * sum(shared[i].size for i in leaves)


def _back_propagate(
    program: Program, shared: Values, batch: PyTree
) -> tuple[tuple[jax.Array, PyTree], Book]:
    """Runs the loss and its gradient by the sites' outputs: ((values, aux), book)."""
    sites = list(filter(program.tapped_outputs, program.of_example))
    taps = {
        i: jnp.zeros(program.avals[i].shape, program.avals[i].dtype)
        for site in sites
        for i in program.tapped_outputs(site)
    }
    taps = vary(taps, manual_axes(batch))
    taken = {i for site in sites for i in site.inputs if program.belongs_to_example(i)}

    def tapped_loss(
        taps: Values, *example: Any
    ) -> tuple[jax.Array, tuple[PyTree, Values]]:
        values = dict(shared)
        numbers = program.example_numbers
        values.update(zip(numbers, jax.tree.leaves(example), strict=True))
        for operation in program.of_example:
            operation.apply(values)
            for i in taps.keys() & operation.outputs:
                values[i] += taps[i]
        outputs = [values[i] for i in program.output_numbers]
        value, aux = program.output_tree.unflatten(outputs)
        return value, (aux, {i: values[i] for i in taken})

    example_grad = functools.partial(
        jax.value_and_grad(tapped_loss, has_aux=True), taps
    )
    (values, (aux, inputs)), gradients = jax.vmap(example_grad)(*batch)
    return (values, aux), Book(inputs, gradients)


def _add_gradients(
    group: Group,
    shared: Values,
    book: Book,
    counts: jax.Array,
    factors: jax.Array,
    arithmetic: Arithmetic,
    sums: Cells,
) -> tuple[Cells, jax.Array, int]:
    """Measures and adds up gradients, a few examples at a time.

    Args:
        group: whose gradients.
        shared: the shared values.
        book: of all groups.
        counts: bool [b], which examples are measured.
        factors: float32 [b], see ``Arithmetic.visit``.
        arithmetic: how gradients are added.
        sums: of each of the group's parameters.

    Returns:
        The sums; squared norms, float32 [b]; by how many roundings they may be off.
    """
    book = book.of(group)
    size = len(factors)
    fitting = GROUP_BYTES // max(1, _gradient_bytes(group.leaves, shared))
    # At least two chunks: gradients that do not depend on a loop's counter are the same
    # in both sweeps, so that the compiler would compute them before and keep them all.
    width = max(1, min(fitting, -(-size // 2)))
    gradients_of = jax.vmap(functools.partial(group.gradient, shared))
    roundings = 0

    def add_chunk(
        k: jax.Array, carry: tuple[jax.Array, Joined]
    ) -> tuple[jax.Array, Joined]:
        nonlocal roundings
        squares, total = carry
        # The last chunk begins early enough to be full; its first rows are done then.
        start = jnp.minimum(k * width, size - width)
        is_new = start + jnp.arange(width) >= k * width
        rows = functools.partial(
            lax.dynamic_slice_in_dim, start_index=start, slice_size=width
        )
        gradients = gradients_of(jax.tree.map(rows, book))
        kept = jnp.where(is_new, rows(factors), 0.0)
        total, found, roundings = arithmetic.visit(
            total,
            [gradients[i] for i in group.leaves],
            rows(counts),
            lambda squares, roundings, rows: rows(kept),
        )
        found = jnp.where(is_new, found, rows(squares))
        squares = lax.dynamic_update_slice_in_dim(squares, found, start, 0)
        return squares, total

    axes = manual_axes((book, counts))
    nothing = vary(jnp.zeros((size,), jnp.float32), axes)
    start = (nothing, arithmetic.join(sums))
    squares, total = lax.fori_loop(0, -(-size // width), add_chunk, start)
    return arithmetic.split(total, sums), squares, roundings


# Operations that only move numbers, where they keep their count.
_MOVES = {
    primitives.broadcast_in_dim_p,
    primitives.convert_element_type_p,
    primitives.reshape_p,
    primitives.squeeze_p,
    primitives.transpose_p,
}


def _is_rank_one(program: Program, views: list[Operation], site: Operation) -> bool:
    """Whether a site multiplies a parameter, a matrix, by one vector of the example.

    The gradient is then an outer product, whose norm is the product of two norms. (With
    several vectors the norm could be had from their inner products, but where they
    cancel, the rounding error of that exceeds the gradient's own, and clipping by it
    would bound nothing.)
    """
    if site.primitive is not primitives.dot_general_p or len(site.inputs) != 2:
        return False
    weight = 0 if program.leaves[site.inputs[0]] else 1
    aval, vector = (program.avals[site.inputs[i]] for i in (weight, 1 - weight))
    contracted, batched = site.params["dimension_numbers"]
    length = math.prod(aval.shape[axis] for axis in contracted[weight])
    only_moved = all(
        view.primitive in _MOVES
        and all(
            program.avals[i].size == aval.size for i in (*view.inputs, *view.outputs)
        )
        for view in views
    )
    is_real = not any(jnp.iscomplexobj(x) for x in (aval, vector))
    return only_moved and is_real and not batched[0] and vector.size == length


def _add_outer_products(
    group: Group,
    shared: Values,
    book: Book,
    counts: jax.Array,
    factors: jax.Array,
    arithmetic: ExactArithmetic,
    sums: Cells,
) -> tuple[Cells, jax.Array, int]:
    """``_add_gradients`` of a rank-one group, without the norm of any matrix."""
    (site,), (number,) = group.sites, group.leaves
    weight = 0 if site.inputs[1] in book.inputs else 1
    vectors = book.inputs[site.inputs[1 - weight]]
    gradients = book.gradients[site.outputs[0]]
    contracted, _ = site.params["dimension_numbers"]
    # Both with the axes that are summed over in the order of the weight's.
    order = [1 + axis for axis in contracted[1 - weight]]
    rest = [axis for axis in range(1, vectors.ndim) if axis not in order]
    x = vectors.transpose(0, *rest, *order).reshape(len(factors), -1)
    y = gradients.reshape(len(factors), -1)

    def as_matrix(leaf: jax.Array) -> jax.Array:
        values = {number: leaf}
        for view in group.views:
            if view.primitive is primitives.convert_element_type_p:
                values[view.outputs[0]] = values[view.inputs[0]]  # stays int32
            else:
                view.apply(values)
        moved = values[site.inputs[weight]]
        columns = [i for i in range(moved.ndim) if i not in contracted[weight]]
        moved = moved.transpose(*contracted[weight], *columns)
        return moved.reshape(x.shape[1], y.shape[1])

    ((low, high),) = sums
    matrix, squares, roundings = arithmetic.visit_outer(
        (as_matrix(low), as_matrix(high)),
        x.astype(jnp.float32),
        y.astype(jnp.float32),
        counts,
        lambda squares, roundings, rows: rows(factors),
    )
    # Numbers are only moved, so that what moves them back is the transpose.
    back = jax.linear_transpose(as_matrix, low)
    return [tuple(back(word)[0] for word in matrix)], squares, roundings
