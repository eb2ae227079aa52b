"""What a whole person can do, with one image or with most of them.

Neighbouring data sets differ by a person: all of their images are replaced by nothing.
By the run's own choice of people and of their images, loss, clipping and sum.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from float_sums import in_float64, is_within, squared_steps

from dpdm_jax import data, devices, planning, rngs
from dpdm_jax.errors import InputError
from dpdm_jax.models.model import build_model
from dpdm_jax.privacy import class_moments, group_selection
from dpdm_jax.privacy.clipping import clipped_grad
from dpdm_jax.privacy.exact import packing
from dpdm_jax.queries import registry
from dpdm_jax.training import loop
from dpdm_jax.training.from_config import build_training
from dpdm_jax.training.logical_step import Mechanism, take_step
from dpdm_jax.training.secrets import fixed_secrets
from dpdm_jax.training.state import create_state
from dpdm_jax.training.units import load_units

ROOM = 3
# One, some, as many as there is room for, more, and as many as all others together.
SIZES = {"anna": 1, "bo": 2, "cem": ROOM, "dora": 20, "eve": 1, "finn": 27}
HALF = "finn"


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A folder with the images of some people, mixed; and the names of all images."""
    rng = np.random.default_rng(0)
    names = rng.permutation(np.repeat(list(SIZES), list(SIZES.values())))
    images = rng.integers(0, 256, (len(names), 8, 8, 1), np.uint8)
    labels = rng.integers(0, 10, len(names))  # whatever person they are of
    folder = tmp_path_factory.mktemp("people")
    np.savez(
        folder / "train.npz",
        images=images,
        labels=labels,
        person=names,
        other=names,
        image=np.arange(len(names)),
    )
    return folder, names.tolist()


@pytest.fixture(scope="module")
def make_config(tiny_config, people):
    def make(**overrides):
        settings = {
            "data__source": "npz",
            "data__path": str(people[0]),
            "data__num_examples": 0,
            "data__num_classes": 10,
            "data__group": "person",
            "train__images_per_group": ROOM,
            "train__batch_size": len(SIZES),  # everyone, in every step
            "train__microbatch_size": 4,
            "train__num_steps": 4,
            "privacy__fixed_keys_seed": 3,
            "privacy__noise_multiplier": 1.0,
            "privacy__epsilon": float("inf"),
            "privacy__delta": 0.01,
            "privacy__l2_clip_norm": 1e-3,
        }
        return tiny_config(**settings | overrides)

    return make


def where(source, groups, left):
    """The same data with some images alone; who has none stays, with nothing."""
    rest = data.MemorySource(source.examples(np.flatnonzero(left)), source.condition)
    return rest, data.Groups(groups.names, groups.owners[left])


def without(source, groups, name):
    """The same data with a person's images replaced by nothing."""
    return where(source, groups, groups.owners != groups.names.index(name))


class Sums:
    """The sums of clipped vectors in a step of a run, before any noise."""

    def __init__(self, config):
        self.source = data.load_source(config.data, "train")
        self.groups = data.load_groups(config.data, self.source)
        problem = planning.problem_of(self.source, self.groups)
        self.number = problem.num_examples
        model = build_model(config, problem.image_shape, problem.condition)
        self.plan = planning.privacy_plan(config, self.number, model)
        self._secrets = fixed_secrets(1)
        mesh = devices.data_mesh()
        training = build_training(
            config, self.plan, model.trained_loss(), self._secrets.noise_key, mesh
        )
        params, fixed = model.split(model.init(rngs.stream(0, "init")))
        rng = np.random.default_rng(1)
        params = jax.tree.map(
            # Away from the start, where most gradients vanish.
            lambda x: x + 0.1 * rng.standard_normal(x.shape, np.float32),
            params,
        )
        state = create_state(params, training.optimizer, training.noise)
        self._state = devices.place(state, devices.replicated(mesh))

        clip_norm = config.privacy.l2_clip_norm
        no_sum = clipped_grad(jnp.dot, l2_clip_norm=clip_norm).zeros(params)

        def mechanism(source, groups, seen):
            def finish(state, partial):
                total = jax.tree.map(lambda x: x[0], partial.total)
                seen.append(packing.unpack(total, no_sum))
                return state, None

            return Mechanism(
                plan=self.plan,
                source=source,
                groups=groups,
                step_fns=dataclasses.replace(training.step_fns, finish=finish),
                fixed=fixed,
                mesh=mesh,
                secrets=self._secrets,
                microbatch_size=config.train.microbatch_size,
            )

        self._mechanism = mechanism

    def of(self, source, groups, step=0):
        seen = []
        _, _, size = take_step(self._mechanism(source, groups, seen), self._state, step)
        (total,) = seen
        return total, size

    @functools.cached_property
    def all(self):
        return self.of(self.source, self.groups)[0]


@pytest.fixture(scope="module")
def sums_of(make_config):
    @functools.cache
    def make(**overrides):
        return Sums(make_config(**overrides))

    return make


@pytest.mark.parametrize(
    "engine", ["vmap", pytest.param("book_keeping", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", SIZES)
def test_a_person_moves_the_sum_by_at_most_one_clip(sums_of, name, engine):
    sums = sums_of(train__engine=engine)
    rest, groups = without(sums.source, sums.groups, name)
    assert len(rest) == len(sums.source) - SIZES[name]
    other, size = sums.of(rest, groups)
    assert size == len(SIZES)  # who is replaced by nothing is chosen all the same
    moved = squared_steps(sums.all, other)
    clip = sums.plan.l2_clip_norm
    assert is_within(moved, sums.all, clip)
    # And the bound is no larger than it must be.
    assert not is_within(moved, sums.all, 0.99 * clip)


@pytest.mark.parametrize("name", ["cem", "dora", HALF])
def test_images_as_units_do_not_protect_a_person(sums_of, make_config, name):
    """The attack that groups are for; and this is seen by such a test."""
    with_groups = sums_of(train__engine="vmap")
    sums = sums_of(
        data__group="",
        train__images_per_group=1,
        train__batch_size=sum(SIZES.values()),
    )
    rest, _ = without(sums.source, with_groups.groups, name)
    moved = squared_steps(sums.all, sums.of(rest, None)[0])
    assert not is_within(moved, sums.all, 1.5 * sums.plan.l2_clip_norm)


def test_who_owns_half_of_the_images_is_one_unit(sums_of):
    sums = sums_of(train__engine="vmap")
    assert SIZES[HALF] * 2 == len(sums.source)
    assert sums.number == sums.plan.num_examples == len(SIZES)
    assert sums.plan.expected_batch_size == len(SIZES)
    is_theirs = sums.groups.owners == sums.groups.names.index(HALF)
    assert is_theirs.sum() == SIZES[HALF]
    total, _ = sums.of(*where(sums.source, sums.groups, is_theirs))
    assert is_within(squared_steps(total), total, sums.plan.l2_clip_norm)


@pytest.mark.parametrize("name", SIZES)
def test_others_are_chosen_and_seen_as_before(sums_of, name):
    """Neither who is drawn nor which of their images depends on another person."""
    sums = sums_of(train__engine="vmap")
    rest, groups = without(sums.source, sums.groups, name)
    number, seed = sums.groups.names.index(name), bytes(32)
    for step in range(3):
        everyone = np.arange(len(SIZES))
        batches = [
            load_units(source, of, everyone, ROOM, seed, step)
            for source, of in ((sums.source, sums.groups), (rest, groups))
        ]
        others = np.repeat(everyone != number, ROOM)
        for one, other in zip(*map(jax.tree.leaves, batches), strict=True):
            np.testing.assert_array_equal(one[others], other[others])
        assert batches[1].is_padding[~others].all()
        assert (~batches[0].is_padding[~others]).sum() == min(SIZES[name], ROOM)


@pytest.mark.slow
def test_the_mean_is_of_the_images_that_there_are(sums_of):
    """Room that a person does not fill makes their vector no shorter."""
    found = {}
    for room in (2, ROOM):
        sums = sums_of(train__images_per_group=room, privacy__l2_clip_norm=1e6)
        total = {}
        for name in ("bo", "cem"):
            rest, groups = without(sums.source, sums.groups, name)
            with_all, other = (
                in_float64(each) for each in (sums.all, sums.of(rest, groups)[0])
            )
            total[name] = np.concatenate(
                [
                    np.ravel(a - b)
                    for a, b in zip(
                        *map(jax.tree.leaves, (with_all, other)), strict=True
                    )
                ]
            )
        found[room] = total
    scale = np.abs(found[2]["bo"]).max()
    assert scale > 0
    np.testing.assert_allclose(found[2]["bo"], found[3]["bo"], atol=1e-4 * scale)
    # Who has three images is seen with two of them, or with all.
    assert np.abs(found[2]["cem"] - found[3]["cem"]).max() > 1e-2 * scale


def test_images_are_drawn_without_replacement_each_as_often_as_another():
    seed, size, count, steps = bytes(range(32)), 7, 3, 3000
    drawn = [group_selection.choose(seed, i, 5, size, count) for i in range(steps)]
    times = np.zeros(size)
    for places in drawn:
        assert len(set(places.tolist())) == count
        times[places] += 1
    expected = steps * count / size
    spread = np.sqrt(steps * count / size * (1 - count / size))
    assert np.abs(times - expected).max() < 4.5 * spread
    # Of each pair as often as of another.
    pairs = [tuple(p) for places in drawn for p in np.stack([places[:2], places[1:]])]
    assert len(set(pairs)) == size * (size - 1) / 2 - 1  # the first and the last never
    again = group_selection.choose(seed, 8, 5, size, count)
    np.testing.assert_array_equal(again, drawn[8])
    for other_seed, group in ((seed, 6), (bytes(32), 5)):
        others = [
            group_selection.choose(other_seed, i, group, size, count).tolist()
            for i in range(100)
        ]
        assert others != [places.tolist() for places in drawn[:100]]


@pytest.mark.slow
@pytest.mark.parametrize("room", [1, ROOM])
def test_people_of_one_image_are_todays_images_bit_for_bit(make_config, tmp_path, room):
    images = loop.train(
        make_config(data__group="", train__images_per_group=1, train__batch_size=20),
        tmp_path / "images",
    )
    alone = loop.train(
        make_config(
            data__group="image", train__images_per_group=room, train__batch_size=20
        ),
        tmp_path / "people",
    )
    for one, other in zip(
        *(jax.tree.leaves((s.params, s.ema_params)) for s in (images, alone)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_run_of_people_goes_on_as_if_it_had_not_been_interrupted(
    make_config, tmp_path
):
    whole = loop.train(make_config(train__batch_size=3), tmp_path / "whole")
    # 3 is between checkpoints: a step is taken again, with the same images.
    for stop in (3, 0):
        parts = loop.train(
            make_config(train__batch_size=3, train__stop_after_steps=stop),
            tmp_path / "parts",
        )
    for one, other in zip(
        *(jax.tree.leaves((s.params, s.ema_params)) for s in (whole, parts)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def begun(make_config, tmp_path_factory):
    """The directory of a run that was stopped."""
    workdir = tmp_path_factory.mktemp("begun") / "run"
    loop.train(make_config(train__stop_after_steps=2), workdir)
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train__images_per_group": 2}, r"\(2 images a step at most\)"),
        ({"data__group": "image"}, "num_examples 6 -> 54"),
        ({"data__group": "other"}, "group by other"),
        ({"data__group": "", "train__images_per_group": 1}, "'image'"),
    ],
    ids=str,
)
def test_a_run_goes_on_with_its_own_unit_alone(begun, make_config, changes, says):
    with pytest.raises(InputError, match="the plan differs from the ledger") as found:
        loop.train(make_config(**changes), begun)
    assert re.search(says, str(found.value))
    assert str(found.value).count(". ") == 0


@pytest.mark.slow
def test_a_run_goes_on_with_its_own_people_alone(begun, make_config, people, tmp_path):
    """The images are the same; two of them changed hands, or a name was changed."""
    with np.load(people[0] / "train.npz") as archive:
        arrays = dict(archive)
    names = arrays["person"]
    anna, dora = (np.flatnonzero(names == name)[0] for name in ("anna", "dora"))
    for changed in (np.copy(names), np.where(names == "eve", "emma", names)):
        if (changed == names).all():
            changed[[anna, dora]] = names[[dora, anna]]
        np.savez(tmp_path / "train.npz", **arrays | {"person": changed})
        with pytest.raises(InputError, match="training data is not that which"):
            loop.train(make_config(data__path=str(tmp_path)), begun)


@pytest.fixture(scope="module")
def asked(make_config):
    """The query of a run that measures moments, its source and its groups."""
    config = make_config(
        diffusion__parameterization="edm_moments",
        diffusion__edm_moments__components=2,
        privacy__moments_noise_multiplier=1.0,
    )
    source = data.load_source(config.data, "train")
    groups = data.load_groups(config.data, source)
    model = build_model(config, (8, 8, 1), source.condition)
    (query,) = registry.of_run(config, model)
    return query, source, groups


def queries_of(query, source, groups):
    """The sums that a query releases, as functions of the features of all images."""
    released = []
    query.answer(source, fixed_secrets(2).query_key("moments"), released.append, groups)
    return [each.query for each in released]


@pytest.mark.parametrize("name", SIZES)
def test_a_person_moves_each_query_by_at_most_one(asked, name):
    query, source, groups = asked
    rest, others = without(source, groups, name)
    labels = source.examples(groups.members(groups.names.index(HALF)))["condition"]
    assert len(set(labels.tolist())) > 1  # a person adds to the sums of many classes
    sums = queries_of(query, source, groups)
    assert len(sums) == class_moments.num_queries(covariances=True)
    for ask in sums:
        totals = [
            ask(query.features(*each)) for each in ((source, groups), (rest, others))
        ]
        moved = squared_steps(*totals)
        assert is_within(moved, totals[0], 1)
        assert moved > 0


def test_images_as_units_let_a_person_move_a_query_by_more(asked):
    query, source, groups = asked
    rest, _ = without(source, groups, HALF)
    ask = queries_of(query, source, None)[0]
    totals = [ask(query.features(each)) for each in (source, rest)]
    assert not is_within(squared_steps(*totals), totals[0], 2)


def test_queries_of_people_of_one_image_are_those_of_images(asked):
    query, source, _ = asked
    alone = data.Groups.of([str(i) for i in range(len(source))])
    key = fixed_secrets(2).query_key("moments")
    answers = [query.answer(source, key, None, each) for each in (None, alone)]
    jax.tree.map(np.testing.assert_array_equal, *answers)
