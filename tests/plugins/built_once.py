"""Networks and samplers of a test file that are alike are built, and compiled, once.

Building a network traces all of its modules; a sampler's program is compiled anew by
whoever asks for images. Both depend on configs alone.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jaxtyping
import numpy as np
import pytest

from dpdm_jax.diffusion.denoiser import Denoiser
from dpdm_jax.models import model as models
from dpdm_jax.sampling import generate


@contextmanager
def installed() -> Iterator[None]:
    """Has it so within; see ``running``."""
    networks, codecs = _shared(models.build_network), _shared(models.build_codec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "build_network", networks)
        patch.setattr(models, "build_codec", codecs)
        patch.setattr(generate, "sampling_program", _shared_program())
        yield


def _where() -> tuple[Any, ...]:
    """The test file, and how it compiles and checks arrays."""
    file = os.environ.get("PYTEST_CURRENT_TEST", "").partition("::")[0]
    cheaply = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"]
    return file, cheaply, jaxtyping.config.jaxtyping_disable


def _shared(build: Callable[..., Any]) -> Callable[..., Any]:
    made: dict[Any, Any] = {}

    def build_once(config: Any, *args: Any, **options: Any) -> Any:
        fields = repr(config.to_dict())
        key = (*_where(), fields, *map(repr, (args, sorted(options.items()))))
        if key not in made:
            made[key] = build(config, *args, **options)
        return made[key]

    return build_once


def _of_denoiser(denoise: Denoiser) -> Any:
    """Where its functions stand; of one that a test has made, which it is."""
    functions = (denoise.predict, denoise.prepare)
    names = [(f.__module__, getattr(f, "__qualname__", "")) for f in functions]
    is_ours = all(module.startswith("dpdm_jax.") for module, _ in names)
    return tuple(names) if is_ours else id(denoise)


def _shared_program() -> Callable[..., Any]:
    build, made = generate.sampling_program, {}

    def build_once(model, sampler, mesh, **options):
        with np.printoptions(threshold=sys.maxsize):
            parts = (model.parameterization, model.prior, model.condition, sampler)
            said = repr(parts)
        known = (*_where(), said, mesh, repr(sorted(options.items())))
        # By identity: what is kept here is no other object later.
        known += (id(model.network), id(model.codec), _of_denoiser(model.denoise))
        if known not in made:
            program = build(model, sampler, mesh, **options)
            made[known] = model, sampler, program
        return made[known][-1]

    return build_once
