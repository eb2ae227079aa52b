"""What befalls a run's files and machine must not befall its privacy or its result."""

import dataclasses
import errno
import functools
import itertools
import json
import logging
import os
import pathlib
import shutil
import socket
import subprocess
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from commands import Commands
from reading import images_and_labels

from dpdm_jax import data, files, settings
from dpdm_jax.conditions import of_classes
from dpdm_jax.configs import digits
from dpdm_jax.errors import InputError
from dpdm_jax.models.model import build_model
from dpdm_jax.privacy import read_ledger
from dpdm_jax.training import arithmetic
from dpdm_jax.training.checkpoints import Checkpoints, checksum
from dpdm_jax.training.extension import extend
from dpdm_jax.training.loop import train
from dpdm_jax.training.mechanism_version import MECHANISM_VERSION

_STEPS = 6
_FIELDS = {
    "network.mlp.base_width": 4,
    "network.mlp.hidden_width": 8,
    "diffusion.noise_multiplicity": 2,
    "train.batch_size": 100,
    "train.num_steps": _STEPS,
    "train.microbatch_size": 64,
    "checkpoint.every_steps": 2,
    "checkpoint.keep": 10,
    "log.every_steps": 1,
    "log.snapshot_every_steps": 0,
    "log.tensorboard": False,
}


def config_of(**overrides):
    """The digits config, cut down to seconds; ``a__b`` stands for ``config.a.b``."""
    config = digits.network_alone()
    changed = {name.replace("__", "."): value for name, value in overrides.items()}
    for name, value in (_FIELDS | changed).items():
        settings.assign(config, name, value)
    return config


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> pathlib.Path:
    """A run with secret keys, stopped after step 5 of 6. Read-only."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    train(config_of(train__stop_after_steps=5), folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(begun, tmp_path_factory) -> pathlib.Path:
    """That run, gone on with to its end. Read-only."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    shutil.copytree(begun, folder)
    train(config_of(), folder)
    return folder


@pytest.fixture
def workdir(begun, tmp_path) -> pathlib.Path:
    """A copy of ``begun``."""
    return pathlib.Path(shutil.copytree(begun, tmp_path / "run"))


def private_part(workdir, step):
    path = workdir / "checkpoints" / str(step) / "private" / "metadata"
    return json.loads(path.read_text())


def restored(workdir):
    """The weights of the newest checkpoint, and the digests that it states, if any."""
    config = config_of()
    model = build_model(config, (8, 8, 1), of_classes(10))
    checkpoints = Checkpoints(workdir)
    arrays = [checkpoints.restore_weights(model, name) for name in ("raw", "ema")]
    described = checkpoints.description()
    checkpoints.close()
    return arrays, described.get("digests")


def steps_logged(workdir):
    """What each line of the metrics says of its step, the speed aside."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    found = {}
    for line in map(json.loads, lines):
        del line["private/images_per_second"]
        found.setdefault(line["step"], []).append(line)
    return found


restored_once = functools.cache(restored)  # of a run that stays as it is


def assert_ended_like(workdir, undisturbed):
    ours, theirs = restored(workdir), restored_once(undisturbed)
    jax.tree.map(np.testing.assert_array_equal, ours[0], theirs[0])
    assert ours[1] == theirs[1]  # the optimizer's state, too
    assert read_ledger(workdir / "privacy.json") == read_ledger(
        undisturbed / "privacy.json"
    )
    assert private_part(workdir, _STEPS) == private_part(undisturbed, _STEPS)
    # The same batches, noise and weights, however often a step was taken.
    ours, theirs = steps_logged(workdir), steps_logged(undisturbed)
    assert list(ours) == list(theirs) == list(range(1, _STEPS + 1))
    for step, lines in ours.items():
        assert all(line == theirs[step][0] for line in lines)


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in files_of(folder)}


def arrays_of(checkpoint, item):
    """The file with an item's numbers: the largest."""
    return max(files_of(checkpoint / item), key=lambda path: path.stat().st_size)


def truncate(checkpoint):
    path = arrays_of(checkpoint, "opt_state")
    os.truncate(path, path.stat().st_size // 2)


def flip_bits(checkpoint):
    """One in each file, for some hold what nobody reads."""
    for path in files_of(checkpoint / "params"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def swap_weights(checkpoint):
    """Both are sound, only not what was written there."""
    raw, average = checkpoint / "params", checkpoint / "ema_params"
    raw.rename(checkpoint / "aside")
    average.rename(raw)
    (checkpoint / "aside").rename(average)


def empty_every_file(checkpoint):
    for path in files_of(checkpoint):
        os.truncate(path, 0)


def lose_an_item(checkpoint):
    shutil.rmtree(checkpoint / "ema_params")


def lose_everything(checkpoint):
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


def change_text(item, old, new):
    def change(checkpoint):
        path = checkpoint / item / "metadata"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


_DAMAGES = {
    "truncated": truncate,
    "bits": flip_bits,
    "swapped": swap_weights,
    "emptied": empty_every_file,
    "item lost": lose_an_item,
    "all lost": lose_everything,
    "run id": change_text("meta", '"run_id"', '"run_it"'),
    "meta cut": change_text("meta", "{", ""),
    "secrets": change_text("private", '"loss_seed": "', '"loss_seed": "00'),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", _DAMAGES.values(), ids=_DAMAGES)
def test_a_damaged_newest_checkpoint_is_gone_on_without(
    workdir, undisturbed, damage, caplog
):
    damage(workdir / "checkpoints" / "5")
    before = contents(workdir / "checkpoints" / "5")
    with caplog.at_level(logging.WARNING, "dpdm_jax"):
        state = train(config_of(), workdir)
    assert int(state.step) == _STEPS
    (message,) = [
        r.getMessage() for r in caplog.records if r.name.startswith("dpdm_jax")
    ]
    assert "checkpoints/5 " in message
    assert "goes on from step 4" in message
    assert "kept as checkpoints/damaged/5" in message
    assert "\n" not in message
    assert contents(workdir / "checkpoints" / "damaged" / "5") == before
    assert_ended_like(workdir, undisturbed)


@pytest.mark.slow
def test_several_damaged_checkpoints_and_a_second_time(workdir, undisturbed):
    for step in ("5", "4", "2"):
        truncate(workdir / "checkpoints" / step)
    train(config_of(train__stop_after_steps=5), workdir)
    truncate(workdir / "checkpoints" / "5")
    train(config_of(), workdir)
    kept = {path.name for path in (workdir / "checkpoints" / "damaged").iterdir()}
    assert kept == {"2", "4", "5", "5.1"}
    assert_ended_like(workdir, undisturbed)


@pytest.mark.slow
def test_a_run_whose_last_checkpoint_is_damaged_is_finished_again(
    undisturbed, tmp_path
):
    workdir = shutil.copytree(undisturbed, tmp_path / "run")
    truncate(workdir / "checkpoints" / "6")
    assert int(train(config_of(), workdir).step) == _STEPS
    assert_ended_like(workdir, undisturbed)


def shown_at(path, step):
    def show(workdir):
        (workdir / path).parent.mkdir(parents=True)
        (workdir / path).write_text(json.dumps({"step": step}))

    return show


@pytest.mark.slow
@pytest.mark.parametrize(
    ("show", "what"),
    [
        (lambda workdir: truncate(workdir / "checkpoints" / "5"), "a checkpoint"),
        (shown_at("samples/mine/settings.json", 5), "samples/mine/settings.json"),
        (shown_at("release/MANIFEST.json", 5), "release/MANIFEST.json"),
        (shown_at("samples/snapshots/step_0000005.png", 5), "step_0000005.png"),
    ],
    ids=["weights", "samples", "release", "snapshot"],
)
def test_steps_of_which_something_was_seen_are_not_taken_again_otherwise(
    workdir, undisturbed, monkeypatch, show, what
):
    """Sums that are rounded otherwise, under one noise: it could be subtracted."""
    show(workdir)
    if what != "a checkpoint":
        shutil.rmtree(workdir / "checkpoints" / "5")
    before = contents(workdir)
    smaller = config_of(train__microbatch_size=32)
    with pytest.raises(InputError, match="rounded otherwise") as e:
        train(smaller, workdir)
    assert "goes on from step 4" in str(e.value)
    assert what in str(e.value)
    assert "train.microbatch_size: 64 then, 32 now" in str(e.value)
    with monkeypatch.context() as patch:
        elsewhere = arithmetic.described() | {"jaxlib": "0.9", "devices": 8}
        patch.setattr(arithmetic, "described", lambda: elsewhere)
        with pytest.raises(InputError, match=r"devices: 1 then, 8 now; jaxlib: "):
            train(config_of(), workdir)
    assert contents(workdir) == before
    train(config_of(), workdir)
    assert_ended_like(workdir, undisturbed)


@pytest.mark.slow
def test_a_session_that_ended_early_counts_though_it_left_no_checkpoint(
    workdir, monkeypatch
):
    """On one device, then on another, then on the first again."""
    here = arithmetic.described()
    monkeypatch.setattr(arithmetic, "described", lambda: here | {"XLA_FLAGS": "--fast"})

    def killed(*_):
        shown_at("samples/snapshots/step_0000006.png", 6)(workdir)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config_of(log__snapshot_every_steps=6), workdir, snapshot=killed)
    for step in (workdir / "checkpoints").glob("6*"):
        shutil.rmtree(step)
    monkeypatch.setattr(arithmetic, "described", lambda: here)
    with pytest.raises(InputError, match="XLA_FLAGS: --fast then, "):
        train(config_of(), workdir)
    (workdir / "computed_with.json").write_text("[1")
    with pytest.raises(InputError, match=r"computed_with.json is damaged; allowed: a"):
        train(config_of(), workdir)


@pytest.mark.slow
def test_the_last_checkpoint_stays_beside_the_newest(tmp_path):
    """Until that one is on the disk, whatever the config says."""
    train(config_of(checkpoint__keep=1), tmp_path)
    checkpoints = Checkpoints(tmp_path)
    assert sorted(checkpoints.steps()) == [_STEPS - 2, _STEPS]
    checkpoints.close()


@pytest.mark.slow
def test_a_checkpoint_that_was_set_aside_was_there(workdir):
    checkpoint = workdir / "checkpoints" / "5"
    checkpoint.parent.joinpath("damaged").mkdir()
    checkpoint.rename(checkpoint.parent / "damaged" / "5")
    with pytest.raises(InputError, match="of later steps there was a checkpoint"):
        train(config_of(train__microbatch_size=32), workdir)


@pytest.mark.slow
def test_steps_that_left_nothing_are_taken_again_anywhere(workdir):
    """As after a power cut, on another machine."""
    shutil.rmtree(workdir / "checkpoints" / "5")
    for path in ("samples/old/settings.json", "release/MANIFEST.json"):
        shown_at(path, 4)(workdir)
    assert read_ledger(workdir / "privacy.json").authorized_steps > 4
    state = train(config_of(train__microbatch_size=32), workdir)
    assert int(state.step) == _STEPS


@pytest.mark.slow
def test_without_a_sound_checkpoint_nothing_begins_anew(workdir):
    for checkpoint in (workdir / "checkpoints").iterdir():
        truncate(checkpoint)
    before = contents(workdir)
    with pytest.raises(InputError, match="no checkpoint before it is sound") as e:
        train(config_of(), workdir)
    assert "\n" not in str(e.value)
    assert contents(workdir) == before


@pytest.mark.slow
def test_other_keys_are_not_fallen_back_to(workdir, tmp_path):
    """A sound checkpoint with other secrets would give the steps taken other noise."""
    other = tmp_path / "other"
    train(config_of(train__stop_after_steps=4), other)
    theirs = other / "checkpoints" / "4" / "private" / "metadata"
    shutil.copy(theirs, workdir / "checkpoints" / "4" / "private" / "metadata")
    truncate(workdir / "checkpoints" / "5")
    before = contents(workdir)
    with pytest.raises(InputError, match="other keys"):
        train(config_of(), workdir)
    assert contents(workdir) == before


def write_ledger(workdir, authorized_steps):
    path = workdir / "privacy.json"
    record = read_ledger(path)
    event = dataclasses.replace(record.events[0], authorized_steps=authorized_steps)
    record = dataclasses.replace(record, events=(event,))
    path.write_text(json.dumps(record.to_dict()))


@pytest.mark.slow
def test_a_ledger_that_counts_less_is_refused(workdir):
    """One of an old backup: what it leaves out was spent."""
    write_ledger(workdir, 4)
    with pytest.raises(InputError, match="counts less than its copy"):
        train(config_of(), workdir)
    # Nothing but its name tells that of the damaged checkpoint.
    empty_every_file(workdir / "checkpoints" / "5")
    with pytest.raises(
        InputError, match="checkpoint of step 5 and its ledger counts 4"
    ):
        train(config_of(), workdir)
    assert not (workdir / "checkpoints" / "damaged").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: content.replace(
            b'"authorized_steps": 5', b'"authorized_steps": 4'
        ),
    ],
)
def test_a_damaged_ledger_stops_the_run_and_its_return_goes_on(
    workdir, undisturbed, damage
):
    ledger = workdir / "privacy.json"
    kept = ledger.read_bytes()
    ledger.write_bytes(damage(kept))
    before = contents(workdir)
    with pytest.raises(InputError, match=r"privacy\.json is damaged") as e:
        train(config_of(), workdir)
    assert "\n" not in str(e.value)
    assert contents(workdir) == before
    ledger.write_bytes(kept)
    train(config_of(), workdir)
    assert_ended_like(workdir, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("content", [None, b"", b'{"name": '])
def test_a_damaged_config_is_written_anew(workdir, undisturbed, content):
    path = workdir / "config.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    train(config_of(), workdir)
    assert path.read_bytes() == (undisturbed / "config.json").read_bytes()
    assert_ended_like(workdir, undisturbed)


def of_first_format(meta, private):
    """Checkpoints had neither digests nor checksums."""
    for name in ("digests", "mechanism_version"):
        del meta[name]
    meta["format"] = 1
    for name in ("format", "data_digest"):
        del private[name]


def of_first_mechanism(meta, private):
    del meta["mechanism_version"]


def of_a_later_mechanism(meta, private):
    meta["mechanism_version"] += 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make_old", "version"),
    [
        (of_first_format, "1"),
        (of_first_mechanism, "1"),
        (of_a_later_mechanism, str(MECHANISM_VERSION + 1)),
    ],
)
def test_no_run_goes_on_with_another_mechanism(workdir, begun, make_old, version):
    """Steps would be taken again, the same noise on other sums."""
    for step in ("0", "2", "4", "5"):
        paths = [
            workdir / "checkpoints" / step / item / "metadata"
            for item in ("meta", "private")
        ]
        texts = [json.loads(path.read_text()) for path in paths]
        for text in texts:
            del text["checksum"]
        make_old(*texts)
        for path, text in zip(paths, texts, strict=True):
            if text.get("format", 1) > 1:
                text["checksum"] = checksum(text)
            path.write_text(json.dumps(text))
    before = contents(workdir)
    longer = config_of(extend__num_steps=5, extend__epsilon=99.0)
    for go_on in (
        lambda: train(config_of(), workdir),
        lambda: extend(longer, workdir, announce=pytest.fail),
    ):
        with pytest.raises(InputError, match=f"begun with version {version} of") as e:
            go_on()
        assert "\n" not in str(e.value)
        assert contents(workdir) == before
    # What it has is read.
    ours, theirs = restored(workdir), restored_once(begun)
    jax.tree.map(np.testing.assert_array_equal, ours[0], theirs[0])


# ---- the data


def write_digits(path, change=lambda images, labels: None):
    source = data.load_source(config_of().data, "train")
    images, labels = images_and_labels(source)
    images, labels = images.copy(), labels.copy()
    change(images, labels)
    path.mkdir()
    np.savez(path / "train.npz", images=images, labels=labels)
    return {"data__source": "npz", "data__path": str(path)}


def brighten_one(images, labels):
    images[700, 3, 3] ^= 1


def change_a_label(images, labels):
    labels[1000] = (labels[1000] + 1) % 10


def swap_two(images, labels):
    for array in (images, labels):
        array[[5, 6]] = array[[6, 5]]


@pytest.mark.slow
def test_two_ends_of_a_run_that_differ_in_an_image_are_refused(tmp_path):
    """Their difference would be what the image contributed, without any noise."""
    rng = np.random.default_rng(0)
    count, side = 600, 48
    images = rng.integers(0, 256, (count, side, side, 1), np.uint8)
    labels = np.arange(count) % 10
    # One that a look at a mebibyte of images, evenly spread, leaves out.
    some = np.linspace(0, count - 1, num=2**20 // side**2).astype(int)
    victim = np.setdiff1d(np.arange(count), some)[0]
    runs = tmp_path / "run", tmp_path / "fork"
    fields = {
        "data__source": "npz",
        "data__num_examples": count,
        "data__image_size": side,
        "train__num_steps": 2,
    }

    def config_with(name, images):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "train.npz", images=images, labels=labels)
        return config_of(data__path=str(tmp_path / name), **fields)

    train(config_with("data", images), runs[0])
    shutil.copytree(*runs)
    shutil.rmtree(runs[1] / "checkpoints" / "2")
    before = contents(runs[1])
    images[victim] = 0
    with pytest.raises(InputError, match="training data is not that"):
        train(config_with("other", images), runs[1])
    assert contents(runs[1]) == before


@pytest.mark.slow
def test_other_data_of_the_same_size_is_refused(tmp_path):
    here = write_digits(tmp_path / "data")
    workdir = tmp_path / "run"
    train(config_of(**here, train__stop_after_steps=3), workdir)
    before = contents(workdir)
    for change in (brighten_one, change_a_label, swap_two):
        other = write_digits(tmp_path / change.__name__, change)
        with pytest.raises(InputError, match="training data is not that") as e:
            train(config_of(**other), workdir)
        assert "\n" not in str(e.value)
        assert contents(workdir) == before
    # The same data in another place is the same data.
    moved = write_digits(tmp_path / "moved")
    assert int(train(config_of(**moved), workdir).step) == _STEPS


@pytest.mark.slow
def test_the_datas_digest_is_keyed_and_stays_in_the_private_part(begun, undisturbed):
    digest = private_part(begun, 5)["data_digest"]
    assert digest == private_part(undisturbed, _STEPS)["data_digest"]
    _, plain = data.bind(data.load_source(config_of().data, "train"))
    for path in files_of(undisturbed):
        content = path.read_bytes()
        assert plain not in content
        assert plain.hex().encode() not in content
        if path.parent.name != "private":
            assert digest.encode() not in content


# ---- full storage


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_as_tensorstore_says(*_, **__):
    raise ValueError(
        "RESOURCE_EXHAUSTED: Error writing local file [OS error 28: "
        f"{os.strerror(errno.ENOSPC)}]"
    )


def full_for_checkpoints(patch, answer):
    patch.setattr(ocp.CheckpointManager, "save", answer)


def full_for_metrics(patch, answer):
    """Half a line still fits."""
    write = os.write

    def write_half(handle, content):
        if b'"step"' in content:
            return write(handle, content[: len(content) // 2])
        if b"private/" in content or content.endswith(b"}\n"):
            answer()
        return write(handle, content)

    patch.setattr(os, "write", write_half)


def full_for(name):
    def fill(patch, answer):
        replace = os.replace

        def answer_for_one(source, target):
            if pathlib.Path(target).name == name:
                answer()
            replace(source, target)

        patch.setattr(os, "replace", answer_for_one)

    return fill


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fill", "answer", "named"),
    [
        (full_for_checkpoints, full, "checkpoints/6"),
        (full_for_checkpoints, full_as_tensorstore_says, "checkpoints/6"),
        (full_for_metrics, full, r"metrics\.jsonl"),
        (full_for("privacy.json"), full, r"privacy\.json"),
        (full_for("config.json"), full, r"config\.json"),
    ],
)
def test_a_full_disk_is_one_sentence_and_the_run_goes_on(
    workdir, undisturbed, monkeypatch, fill, answer, named
):
    with monkeypatch.context() as patch:
        fill(patch, answer)
        with pytest.raises(InputError, match=named) as e:
            train(config_of(), workdir)
    assert "No space left on device" in str(e.value)
    assert "\n" not in str(e.value)
    record = read_ledger(workdir / "privacy.json")
    assert record.authorized_steps >= max(steps_logged(workdir))
    train(config_of(), workdir)
    assert_ended_like(workdir, undisturbed)
    assert not list(workdir.glob(".privacy.json*"))


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(BlockingIOError), files.writing(tmp_path):
        raise BlockingIOError(errno.EAGAIN, "no")
    error = InputError("mine")
    error.__context__ = OSError(errno.ENOSPC, "full")
    with pytest.raises(InputError, match="mine"), files.writing(tmp_path):
        raise error


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """Commands that see file systems of their own."""
    if subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no mount namespaces here")
    made = Commands(tmp_path_factory.mktemp("apart"), prefix=("unshare", "-rm"))
    made.plan(network_alone=True, **_FIELDS)
    yield made
    made.close()


@pytest.mark.slow
def test_a_disk_that_is_really_full(apart, tmp_path):
    """A file system in memory, too small at first and again, then large enough."""
    disk, result = tmp_path / "disk", tmp_path / "result"
    disk.mkdir()
    result.mkdir()
    flags = [f"--config.{name}={value}" for name, value in _FIELDS.items()]
    flags += ["--config.diffusion.parameterization=edm"]
    flags += ["--config.privacy.moments_share=0"]

    def shell(*command: object) -> None:
        done = apart.run(*map(str, command), module="shell")
        assert done.returncode == 0, done.stderr

    ends = []
    shell("mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk)
    for larger in ("220k", "400k", "50m", "50m"):
        ends.append(apart.run("--mode=train", f"--workdir={disk / 'run'}", *flags))
        shell("mount", "-o", f"remount,size={larger}", disk)
    shell("cp", "-r", disk / "run", result)
    shell("umount", disk)
    *refused, last = ends
    for ended in refused:
        errors = ended.stderr
        assert ended.returncode == 2, errors
        assert "Traceback" not in errors
        (message,) = [e for e in errors.splitlines() if e.startswith("error: ")]
        assert "No space left on device" in message
    assert last.returncode == 0, last.stderr
    workdir = result / "run"
    assert read_ledger(workdir / "privacy.json").authorized_steps == _STEPS
    assert list(steps_logged(workdir)) == list(range(1, _STEPS + 1))
    _, digests = restored(workdir)
    assert set(digests) == {"params", "ema_params", "opt_state"}
    assert not list((workdir / "checkpoints").glob("*tmp*"))


# ---- clock and host


@pytest.mark.slow
def test_clock_and_host_do_not_matter(workdir, undisturbed, monkeypatch):
    """The clock jumps back a century and runs backwards; the host has a new name."""
    backwards = itertools.count(0, -3600)
    monkeypatch.setattr(time, "time", lambda: float(next(backwards)))
    monkeypatch.setattr(time, "time_ns", lambda: next(backwards) * 10**9)
    for name in ("gethostname", "getfqdn"):
        monkeypatch.setattr(socket, name, lambda *_: "elsewhere")
    monkeypatch.setattr(
        os, "uname", lambda: os.uname_result(("Linux", "elsewhere", "", "", ""))
    )
    for path in files_of(workdir):
        os.utime(path, (2**33, 2**33))  # files from the future
    train(config_of(checkpoint__keep=2), workdir)
    kept = sorted(p.name for p in (workdir / "checkpoints").iterdir())
    assert kept == ["5", "6"]
    assert_ended_like(workdir, undisturbed)
