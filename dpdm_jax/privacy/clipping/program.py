"""The loss of one example as a list of operations, sorted by what they depend on."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.extend.core import primitives

from dpdm_jax.privacy.clipping.base import LossAndAux, PyTree

#: A value's number in a program.
Number = int
Values = dict[Number, Any]


class Operation(NamedTuple):
    """One equation of the loss.

    Attributes:
        run: ``run(*inputs) -> list of outputs``.
        inputs: numbers of the values it takes.
        outputs: numbers of the values it gives.
        primitive: what it is; None for a copy.
        params: the primitive's parameters.
    """

    run: Callable[..., list[Any]]
    inputs: tuple[Number, ...]
    outputs: tuple[Number, ...]
    primitive: core.Primitive | None
    params: dict[str, Any]

    def apply(self, values: Values) -> None:
        """Adds its outputs to the values."""
        outputs = self.run(*(values[i] for i in self.inputs))
        values.update(zip(self.outputs, outputs, strict=True))


@dataclasses.dataclass
class Program:
    """A loss of one example, ``(value, aux) = loss(params, *example)``.

    Each value is either *shared*, the same for every example, or belongs to the
    example. A *site* is an operation of the example in which parameters take part.
    Parameters reach the loss through sites only: by the chain rule its gradient is the
    sum over the sites of what each passes on to the parameters, given the gradient by
    the site's outputs.

    Attributes:
        constants: values known from the start.
        param_numbers: numbers of the parameters' leaves, which are 0, 1, 2, ...
        example_numbers: numbers of the example's leaves.
        output_numbers: numbers of the loss and of aux' leaves.
        shared: operations that no example takes part in.
        of_example: the others, in order.
        avals: shape and dtype by number.
        leaves: by number, which parameters a shared value varies with; empty for a
            value of the example.
        output_tree: structure of (value, aux).
    """

    constants: Values = dataclasses.field(default_factory=dict)
    param_numbers: list[Number] = dataclasses.field(default_factory=list)
    example_numbers: list[Number] = dataclasses.field(default_factory=list)
    output_numbers: list[Number] = dataclasses.field(default_factory=list)
    shared: list[Operation] = dataclasses.field(default_factory=list)
    of_example: list[Operation] = dataclasses.field(default_factory=list)
    avals: list[Any] = dataclasses.field(default_factory=list)
    leaves: list[frozenset[Number]] = dataclasses.field(default_factory=list)
    output_tree: Any = None
    _example_values: set[Number] = dataclasses.field(default_factory=set)

    def belongs_to_example(self, number: Number) -> bool:
        """Whether a value differs between examples."""
        return number in self._example_values

    def leaves_of(self, operation: Operation) -> frozenset[Number]:
        """Parameters that reach an operation by shared values."""
        return frozenset().union(*(self.leaves[i] for i in operation.inputs))

    def tapped_outputs(self, operation: Operation) -> list[Number]:
        """Outputs of a site that carry a gradient; none if it is not a site."""
        if not self.leaves_of(operation):
            return []
        return [i for i in operation.outputs if _is_inexact(self.avals[i])]

    def slice_to(self, numbers: Iterable[Number]) -> list[Operation]:
        """The shared operations that lead from parameters to some shared values."""
        wanted, found = set(numbers), []
        for operation in reversed(self.shared):
            if any(i in wanted and self.leaves[i] for i in operation.outputs):
                found.append(operation)
                wanted.update(operation.inputs)
        return found[::-1]

    def _new(self, aval: Any, leaves: frozenset[Number], of_example: bool) -> Number:
        number = len(self.avals)
        self.avals.append(aval)
        self.leaves.append(leaves)
        if of_example:
            self._example_values.add(number)
        return number

    def _constant(self, value: Any) -> Number:
        number = self._new(jax.typeof(value), frozenset(), False)
        self.constants[number] = value
        return number

    def _add(
        self,
        run: Callable[..., list[Any]],
        inputs: tuple[Number, ...],
        avals: list[Any],
        *,
        primitive: core.Primitive | None = None,
        params: dict[str, Any] | None = None,
        of_example: bool | None = None,
    ) -> tuple[Number, ...]:
        """Adds an operation and returns the numbers of its outputs."""
        if of_example is None:
            of_example = any(map(self.belongs_to_example, inputs))
        leaves = frozenset().union(*(self.leaves[i] for i in inputs))

        def output(aval: Any) -> Number:
            # What a site gives belongs to the example, and integers pass nothing on.
            varies = not of_example and _is_inexact(aval)
            return self._new(aval, leaves if varies else frozenset(), of_example)

        outputs = tuple(map(output, avals))
        operations = self.of_example if of_example else self.shared
        operations.append(Operation(run, inputs, outputs, primitive, params or {}))
        return outputs

    def _walk(self, closed: core.ClosedJaxpr, numbers: list[Number]) -> list[Number]:
        """Adds a jaxpr's equations; numbers of its inputs -> of its outputs."""
        jaxpr = closed.jaxpr
        environment = dict(zip(jaxpr.invars, numbers, strict=True))
        constants = map(self._constant, closed.consts)
        environment |= zip(jaxpr.constvars, constants, strict=True)

        def read(atom: Any) -> Number:
            if isinstance(atom, core.Literal):
                return self._constant(atom.val)
            return environment[atom]

        for equation in jaxpr.eqns:
            variables = _variables(equation)
            inputs = tuple(environment[v] for v in variables)
            has_parameters = any(self.leaves[i] for i in inputs)
            outputs: Sequence[Number]
            if (
                equation.primitive in (primitives.jit_p, primitives.closed_call_p)
                and has_parameters
                and any(map(self.belongs_to_example, inputs))
            ):
                # A site of its own would be all the sites inside it taken together.
                inner = equation.params.get("jaxpr") or equation.params["call_jaxpr"]
                outputs = self._walk(inner, [read(a) for a in equation.invars])
            else:
                outputs = self._add(
                    _evaluator(equation, variables),
                    inputs,
                    [v.aval for v in equation.outvars],
                    primitive=equation.primitive,
                    params=equation.params,
                )
            environment.update(zip(equation.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]


def trace(loss: LossAndAux, params: PyTree, example: tuple[PyTree, ...]) -> Program:
    """Traces the loss of one example.

    Args:
        loss: see ``LossAndAux``.
        params: its first argument.
        example: its other arguments, arrays or shapes.

    Returns:
        The program.
    """
    closed, shapes = jax.make_jaxpr(loss, return_shape=True)(params, *example)
    program = Program(output_tree=jax.tree.structure(shapes))
    num_params = len(jax.tree.leaves(params))
    for i, aval in enumerate(closed.in_avals):
        if i < num_params:
            program.param_numbers.append(program._new(aval, frozenset([i]), False))
        else:
            program.example_numbers.append(program._new(aval, frozenset(), True))
    numbers = program.param_numbers + program.example_numbers
    value, *aux = program._walk(closed, numbers)
    if program.leaves[value]:
        # Without this copy the parameters would reach the loss past all sites.
        copy = program._add(
            lambda x: [x], (value,), [program.avals[value]], of_example=True
        )
        value = copy[0]
    program.output_numbers = [value, *aux]
    return program


def _is_inexact(aval: Any) -> bool:
    return jnp.issubdtype(aval.dtype, jnp.inexact)


def _variables(equation: core.JaxprEqn) -> list[core.Var]:
    """Inputs of an equation that are no literals, each once."""
    return list(
        dict.fromkeys(v for v in equation.invars if not isinstance(v, core.Literal))
    )


def _evaluator(
    equation: core.JaxprEqn, variables: list[core.Var]
) -> Callable[..., list[Any]]:
    name = core.DebugInfo("clipped_grad", equation.primitive.name, None, None)
    jaxpr = core.Jaxpr(
        (), variables, equation.outvars, [equation], equation.effects, name
    )
    return core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr, ()))
