"""What a release holds, what it never holds, and when there is none."""

import base64
import json
import math
import pathlib
import shutil
import zipfile

import jax
import numpy as np
import pytest
import safetensors.numpy

from dpdm_jax import files, run_dir
from dpdm_jax.conditions import of_classes
from dpdm_jax.errors import InputError
from dpdm_jax.models.identity import digest
from dpdm_jax.privacy import Ledger, LedgerRecord, format_epsilon, read_ledger
from dpdm_jax.privacy import ledger as ledger_lib
from dpdm_jax.release import build, bundle
from dpdm_jax.release.build import release
from dpdm_jax.release.verify import verify
from dpdm_jax.sampling import run as sampling_run
from dpdm_jax.training import checkpoints
from dpdm_jax.training.checkpoints import Checkpoints
from dpdm_jax.training.loop import train


def read(folder: pathlib.Path, name: str):
    return json.loads((folder / name).read_text())


def rewrite_ledger(workdir: pathlib.Path, **changes) -> None:
    """Changes the last event of a ledger, whose checksum stays right."""
    path = workdir / run_dir.LEDGER
    fields = read_ledger(path).to_dict()
    fields["events"][-1] |= changes
    del fields["checksum"]
    fields["checksum"] = ledger_lib._checksum(fields)
    path.write_text(json.dumps(fields))


@pytest.mark.slow
def test_contents(released):
    assert bundle.file_names(released) == [
        "MANIFEST.json",
        "PRIVACY.json",
        "PRIVACY.md",
        "README.md",
        "SHA256SUMS",
        "config.json",
        "params.safetensors",
        "samples.npz",
    ]
    assert verify(released).failures == ()
    assert read(released, "PRIVACY.json")["files"].keys() == {
        "MANIFEST.json",
        "config.json",
        "params.safetensors",
        "samples.npz",
    }
    manifest = read(released, "MANIFEST.json")
    assert manifest["step"] == 6
    assert manifest["dtype"] == "float32"
    assert manifest["weights"] == "ema"
    names = read(released, "config.json")["data"]["class_names"]
    assert names[9] == "nine"
    assert manifest["class_names"] == names
    with np.load(released / "samples.npz") as archive:
        assert archive["class_names"].tolist() == names
    arrays = safetensors.numpy.load_file(released / "params.safetensors")
    assert sum(a.size for a in arrays.values()) == manifest["num_parameters"]
    assert {a.dtype for a in arrays.values()} == {np.dtype("float32")}


def test_weights_are_the_average(released, trained):
    arrays = safetensors.numpy.load_file(released / "params.safetensors")
    manifest = read(trained / "checkpoints" / "6" / "meta", "metadata")
    assert {n: list(a.shape) for n, a in arrays.items()} == manifest["model"][
        "parameters"
    ]
    settings = read(trained / "samples" / "samples", "settings.json")
    # In the order of the parameters' names, in which samples' checksum has them.
    ordered = [arrays[name] for name in sorted(arrays)]
    assert digest(ordered) == settings["weights_sha256"]


def test_every_fact_is_stated(released, trained):
    record = read_ledger(trained / "privacy.json")
    stated = read(released, "PRIVACY.json")
    assert stated["private"] is True
    assert stated["epsilon"] == format_epsilon(record.epsilon_spent())
    assert stated["epsilon_pld"] == stated["epsilon"]
    assert float(stated["epsilon_rdp"]) > float(stated["epsilon_pld"])
    assert stated["delta"] == 1e-4
    assert stated["accountant"] == "pld"
    assert stated["neighbouring_relation"] == "zero_out"
    assert stated["accounted_relation"] == "add_or_remove_one"
    assert stated["unit_of_privacy"] == "one training image"
    plan = record.plan
    assert stated["mechanism"] == {
        "noise": "gaussian",
        "noise_multiplier": plan.noise_multiplier,
        "noise_stddev": plan.noise_stddev,
        "l2_clip_norm": 1.0,
        "sampling": "poisson",
        "sampling_probability": 1 / 15,
        "truncation": "none",
        "steps_authorized": 6,
        "steps_planned": 6,
        "expected_batch_size": 95,
        "num_examples": 1437,
        "noise_multiplicity": 2,
        "arithmetic": "exact integers",
        "coordinates": plan.coordinates,
        "parameters": plan.parameters,
    }
    assert plan.coordinates > 1000
    (query,) = stated["queries"]
    assert query["name"] == "training"
    assert query["authorized_steps"] == 6
    assert stated["tuning"] == {"counted": False, "other_runs": [], "selection": None}
    assert stated["disclosures"] == []
    assert stated["software"]["accountant"].startswith("dp-accounting 0")
    assert stated["software"]["jax"]
    text = (released / "PRIVACY.md").read_text()
    assert f"epsilon = {stated['epsilon']}, delta = 0.0001" in text
    assert "Tuning: choosing settings" in " ".join(text.split())


def secrets_of(workdir: pathlib.Path) -> dict[str, bytes]:
    """The secrets of a run in every way of writing them that one may think of."""
    private = read(workdir / "checkpoints" / "6" / "private", "metadata")
    words = np.array(private["noise_key"], np.uint32)
    raw = {"noise_key": words.tobytes(), "noise_key_be": words.byteswap().tobytes()}
    raw |= {f"noise_key_{i}": pair.tobytes() for i, pair in enumerate(words)}
    raw |= {n: bytes.fromhex(private[n]) for n in ("selection_seed", "loss_seed")}
    needles = {}
    for name, value in raw.items():
        needles[name] = value
        needles[f"{name} hex"] = value.hex().encode()
        needles[f"{name} HEX"] = value.hex().upper().encode()
        for offset in range(3):  # base64 depends on what stands before
            text = base64.b64encode(b"\0" * offset + value)
            needles[f"{name} base64 {offset}"] = text[4:-4]
            needles[f"{name} url {offset}"] = text[4:-4].translate(
                bytes.maketrans(b"+/", b"-_")
            )
        for order in ("little", "big"):
            needles[f"{name} {order}"] = str(int.from_bytes(value, order)).encode()
    for i, word in enumerate(words.ravel().tolist()):
        if word > 10**6:  # a shorter number may be there by chance
            needles[f"word {i}"] = str(word).encode()
            needles[f"word {i} hex"] = f"{word:08x}".encode()
    return needles


def all_bytes(folder: pathlib.Path) -> bytes:
    """Every byte of every file, as it is and unpacked."""
    found = []
    for name in bundle.file_names(folder):
        found.append((folder / name).read_bytes())
        if zipfile.is_zipfile(folder / name):
            with zipfile.ZipFile(folder / name) as archive:
                found += [archive.read(member) for member in archive.namelist()]
    return b"\n".join(found)


def test_no_secret_and_no_private_diagnostic_in_any_byte(
    make_config, workdir, tmp_path
):
    folder = release(
        make_config(release__samples="samples", release__metrics=True), workdir
    )
    content = all_bytes(folder)
    needles = secrets_of(workdir)
    for name, needle in needles.items():
        assert len(needle) >= 4
        assert needle not in content, name
    # The search finds what is there.
    private = all_bytes(workdir / "checkpoints" / "6" / "private")
    assert needles["selection_seed hex"] in private
    assert any(needles.get(f"word {i}", b"-") in private for i in range(4))

    measured = set()
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        for name, value in json.loads(line).items():
            if name.startswith("private/") and len(repr(value)) > 9:
                measured |= {repr(value), f"{value:.6f}"}
    assert len(measured) > 20
    for number in measured:
        assert number.encode() not in content
    for place in (workdir, tmp_path, pathlib.Path.home()):
        assert str(place).encode() not in content


def test_metrics_only_on_request_and_as_disclosures(make_config, workdir, released):
    assert b"987654321" not in all_bytes(released)
    path = workdir / "evaluation" / "downstream.json"
    made = {"seed": 3, "prompts": ["Ann's scan"], "labels": "/ann/labels.npy"}
    made["labels_sha256"] = "0123abcd"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample": made}))
    folder = release(make_config(release__metrics=True), workdir)
    assert read(folder, "evaluation/downstream.json") == {
        "accuracy": 0.987654321,
        "data": "",
        "sample": {"seed": 3, "labels": "from a file"},
    }
    (disclosure,) = read(folder, "PRIVACY.json")["disclosures"]
    assert disclosure["file"] == "evaluation/downstream.json"
    assert "evaluation/downstream.json" in (folder / "PRIVACY.md").read_text()
    assert verify(folder).ok


def write_meta(path: pathlib.Path, meta: dict) -> None:
    """Writes what a checkpoint says of itself, its checksum included."""
    meta = {name: value for name, value in meta.items() if name != "checksum"}
    path.write_text(json.dumps(meta | {"checksum": checkpoints.checksum(meta)}))


def test_config_names_no_place(make_config, workdir):
    path = workdir / "checkpoints" / "6" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    meta["config"]["data"]["path"] = "patients"
    meta["config"]["data"]["tfds"]["name"] = "imagenet_resized/32x32"
    meta["config"]["data"]["test_split"] = "see /home/someone/test"
    write_meta(path, meta)
    config = make_config(sample__labels="counted.npy")
    folder = release(config, workdir)
    published = read(folder, "config.json")
    assert published["data"]["path"] == ""
    assert published["data"]["test_split"] == ""
    assert published["data"]["tfds"]["name"] == "imagenet_resized/32x32"
    assert published["sample"]["labels"] == "uniform"
    assert set(published) == {
        *("format", "name", "seed", "data", "codec", "network", "diffusion", "privacy"),
        "train",
        *("initial", "sampler", "sampler_presets", "sample", "evaluate"),
    }
    assert read(folder, "MANIFEST.json")["emptied_in_config"] == [
        "data.path",
        "data.test_split",
        "sample.labels",
    ]


@pytest.mark.parametrize(
    ("text", "is_place"),
    [
        ("/srv/scans", True),
        ("~/scans", True),
        ("C:\\scans", True),
        ("\\\\host\\share", True),
        ("file:/srv", True),
        ("gs://bucket/scans", True),
        ("read from /srv/scans", True),
        ("train[:80%]", False),
        ("imagenet_resized/32x32", False),
        ("and / or", False),
        ("accuracy 1/2", False),
    ],
)
def test_places(text, is_place):
    cleaned = build.published.without_places({"a": [text]})
    assert cleaned == {"a": ["" if is_place else text]}


def test_samples_with_labels_from_a_file_are_a_disclosure(
    make_config, workdir, tmp_path
):
    np.save(tmp_path / "labels.npy", np.zeros(30, np.int32))
    labels = str(tmp_path / "labels.npy")
    config = make_config(sample__labels=labels, sample__name="counted")
    sampling_run.sample(config, workdir)
    folder = release(make_config(release__samples="counted"), workdir)
    (disclosure,) = read(folder, "PRIVACY.json")["disclosures"]
    assert disclosure["file"] == "samples.npz"
    assert labels.encode() not in all_bytes(folder)


@pytest.mark.slow
def test_samples_in_other_formats_come_along(make_config, workdir):
    pytest.importorskip("pyarrow")
    config = make_config(sample__formats="png,parquet,webdataset")
    sampling_run.sample(config, workdir)
    tar = workdir / "samples" / "samples" / "webdataset" / "train-00000-of-00001.tar"
    kept = tar.read_bytes()
    tar.write_bytes(b"whatever lies there")
    folder = release(make_config(release__samples="samples"), workdir)
    # Many small files are for oneself; a statement lists each file.
    names = {
        "samples/parquet/train-00000-of-00001.parquet",
        "samples/webdataset/train-00000-of-00001.tar",
    }
    assert {n for n in bundle.file_names(folder) if n.startswith("samples/")} == names
    assert names <= read(folder, "PRIVACY.json")["files"].keys()
    assert (folder / "samples/webdataset/train-00000-of-00001.tar").read_bytes() == kept
    assert (
        "`samples/parquet/`, `samples/webdataset/`"
        in (folder / "README.md").read_text()
    )
    assert verify(folder).ok


def test_float16_takes_half_the_room(make_config, workdir, released):
    folder = release(make_config(release__dtype="float16"), workdir)
    assert read(folder, "MANIFEST.json")["dtype"] == "float16"
    half = safetensors.numpy.load_file(folder / "params.safetensors")
    whole = safetensors.numpy.load_file(released / "params.safetensors")
    assert {a.dtype for a in half.values()} == {np.dtype("float16")}
    for name, values in whole.items():
        np.testing.assert_array_equal(half[name], values.astype(np.float16))
    assert verify(folder).ok


def test_an_earlier_checkpoint_counts_every_step_that_ran(make_config, workdir):
    folder = release(make_config(release__step=2), workdir)
    stated = read(folder, "PRIVACY.json")
    assert stated["steps_released"] == 2
    assert stated["mechanism"]["steps_authorized"] == 6
    assert stated["epsilon"] == format_epsilon(
        read_ledger(workdir / "privacy.json").epsilon_spent()
    )


@pytest.fixture
def refused(make_config, workdir):
    """Checks that there is one sentence and no release."""

    def check(message: str, **fields):
        with pytest.raises(InputError, match=message) as e:
            release(make_config(**fields), workdir)
        assert "\n" not in str(e.value)
        assert not (workdir / "release").exists()
        assert not list(workdir.glob(".release*"))

    return check


def test_no_ledger(refused, workdir):
    (workdir / "privacy.json").unlink()
    refused("cannot be read")


@pytest.mark.parametrize("damage", ["", "{", "[1]", "NaN"])
def test_damaged_ledger(refused, workdir, damage):
    (workdir / "privacy.json").write_text(damage)
    refused("is damaged")


def test_altered_ledger(refused, workdir):
    path = workdir / "privacy.json"
    text = path.read_text()
    assert '"authorized_steps": 6' in text
    path.write_text(text.replace('"authorized_steps": 6', '"authorized_steps": 5'))
    refused("checksum")


def test_a_ledger_that_counts_less_than_the_checkpoint(refused, workdir):
    rewrite_ledger(workdir, authorized_steps=5)
    refused("counts 5 steps")


def test_a_ledger_older_than_its_copy_in_the_checkpoint(refused, workdir):
    # As if six steps had been authorised when step 4 was saved, and then an old copy
    # of the ledger had been put back.
    meta = workdir / "checkpoints" / "4" / "meta" / "metadata"
    stored = json.loads(meta.read_text())
    stored["ledger"] = read_ledger(workdir / "privacy.json").to_dict()
    write_meta(meta, stored)
    rewrite_ledger(workdir, authorized_steps=4)
    refused("counts less than its copy", release__step=4)


def test_a_ledger_of_another_mechanism(refused, workdir):
    path = workdir / "privacy.json"
    fields = read_ledger(path).to_dict()
    fields["plan"]["l2_clip_norm"] = 0.5
    del fields["checksum"]
    fields["checksum"] = ledger_lib._checksum(fields)
    path.write_text(json.dumps(fields))
    assert isinstance(read_ledger(path), LedgerRecord)
    refused("or something else")


def test_a_ledger_of_another_run(refused, workdir):
    path = workdir / "privacy.json"
    plan = read_ledger(path).plan
    path.unlink()
    Ledger.create(path, plan).authorize(6)
    refused("allowed: one run in a directory")


def test_no_checkpoint(refused, workdir):
    shutil.rmtree(workdir / "checkpoints")
    refused("holds no checkpoint")


def test_no_run_directory(make_config, tmp_path):
    with pytest.raises(InputError, match="is no folder"):
        release(make_config(), tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_imported_weights(make_config, refused, workdir):
    config = make_config()
    model = build.build_model(config, (8, 8, 1), of_classes(10))
    params = model.init(jax.random.key(0))
    shutil.rmtree(workdir / "checkpoints")
    checkpoints = Checkpoints(workdir, keep=1)
    checkpoints.save_imported(model, 5, params, params, config={}, origin={})
    checkpoints.close()
    refused("imported weights")


def test_while_a_process_trains(refused, workdir):
    with run_dir.locked(workdir):
        refused("in use by another process")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"release__dtype": "bfloat16"}, "allowed: float32, float16"),
        ({"release__step": 3}, "no checkpoint of step 3"),
        ({"release__step": -2}, "release.step is -2"),
        ({"release__samples": "../x"}, "release.samples"),
        ({"release__samples": "none"}, "cannot be read"),
        ({"release__tuning_runs": "nowhere"}, "nowhere"),
        ({"release__selection_mean": 0.5}, "mean number of tuning runs is 0.5"),
        ({"release__selection_mean": -1.0}, "release.selection_mean is -1.0"),
        (
            {"release__selection_mean": 2.0, "release__selection_shape": -1.0},
            "shape of the number of tuning runs is -1.0",
        ),
        ({"network__mlp__hidden_width": 9}, "another model"),
    ],
)
def test_bad_settings(refused, fields, message):
    refused(message, **fields)


def test_metrics_that_are_not_there(refused, workdir):
    shutil.rmtree(workdir / "evaluation")
    refused("holds no metrics", release__metrics=True)


def test_samples_of_other_weights(refused, workdir, make_config):
    sampling_run.sample(make_config(sample__step=2, sample__name="early"), workdir)
    refused("other weights", release__samples="early")


def test_damaged_samples(refused, workdir):
    (workdir / "samples" / "samples" / "samples.npz").write_bytes(b"PK\3\4")
    refused("cannot be read", release__samples="samples")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This run is NOT PRIVATE")
@pytest.mark.parametrize(
    "fields", [{"privacy__fixed_keys_seed": 3}, {"privacy__epsilon": math.inf}]
)
def test_a_run_without_guarantee_only_on_request_and_loudly(
    make_config, tmp_path, fields
):
    fields = fields | {"train__num_steps": 2}
    train(make_config(**fields), tmp_path)
    with pytest.raises(InputError, match="NOT PRIVATE"):
        release(make_config(**fields), tmp_path)
    folder = release(make_config(**fields, release__allow_not_private=True), tmp_path)
    stated = read(folder, "PRIVACY.json")
    assert stated["private"] is False
    assert stated["not_private"]
    assert stated["epsilon"] == "infinity"
    text = (folder / "PRIVACY.md").read_text()
    assert "NOT PRIVATE  NOT PRIVATE  NOT PRIVATE" in text
    assert "Differentially private" not in text
    assert read(folder, "config.json")["privacy"]["fixed_keys_seed"] is None
    assert verify(folder).ok


@pytest.mark.slow
def test_tuning_runs_are_composed(make_config, workdir, tmp_path):
    for name in ("a", "b"):
        train(
            make_config(train__num_steps=2, train__learning_rate=1e-3), tmp_path / name
        )
    alone = read_ledger(workdir / "privacy.json").epsilon_spent()
    runs = f"{tmp_path / 'a'}, {tmp_path / 'b'}"
    folder = release(make_config(release__tuning_runs=runs), workdir)
    stated = read(folder, "PRIVACY.json")
    assert float(stated["epsilon"]) > alone
    assert stated["epsilon_without_tuning"] == format_epsilon(alone)
    assert stated["tuning"]["counted"] is True
    assert len(stated["queries"]) == 3
    text = " ".join((folder / "PRIVACY.md").read_text().split())
    assert f"epsilon = {stated['epsilon']}, delta" in text
    assert "Tuning is counted: 2 other runs, composed." in text
    assert "Tuning: choosing settings" not in text
    assert str(tmp_path).encode() not in all_bytes(folder)
    assert verify(folder).ok
    with pytest.raises(InputError, match="twice"):
        release(make_config(release__tuning_runs=str(workdir)), workdir)


def test_a_selection_is_counted(make_config, workdir):
    folder = release(
        make_config(release__selection_mean=8.0, release__selection_shape=math.inf),
        workdir,
    )
    stated = read(folder, "PRIVACY.json")
    assert stated["accountant"] == "rdp"
    assert stated["epsilon_pld"] is None
    assert stated["epsilon"] == stated["epsilon_rdp"]
    assert float(stated["epsilon"]) > float(stated["epsilon_without_tuning"])
    assert stated["tuning"]["selection"] == {"mean": 8.0, "shape": "inf"}
    assert "Accountant: RDP" in (folder / "PRIVACY.md").read_text()
    assert verify(folder).ok


def test_a_release_replaces_an_earlier_one_and_nothing_else(make_config, workdir):
    folder = release(make_config(), workdir)
    first = bundle.identity(folder)
    assert release(make_config(release__dtype="float16"), workdir) == folder
    assert bundle.identity(folder) != first
    assert verify(folder).ok
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is no release"):
        release(make_config(), workdir)
    assert bundle.file_names(folder) == ["thesis.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize(
    ("module", "name"),
    [
        (bundle, "write_parameters"),
        (files, "write_json"),
        (bundle, "write_checksums"),
        (files, "sync_tree"),
        (files, "sync"),
        (pathlib.Path, "rename"),
    ],
)
def test_a_failure_in_the_middle_leaves_no_half_release(
    make_config, workdir, monkeypatch, module, name, existing
):
    before = None
    if existing:
        before = bundle.identity(release(make_config(), workdir))
    real = getattr(module, name)
    calls = []

    def fail(*args):
        calls.append(args)
        # A rename that fails may be undone by another.
        if name != "rename" or len(calls) == 1 + existing:
            raise OSError("the disk is full")
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail)
        with pytest.raises(OSError, match="full"):
            release(make_config(release__dtype="float16"), workdir)
    folder = workdir / "release"
    if existing:
        assert bundle.identity(folder) == before
    else:
        assert not folder.exists()
    assert not list(workdir.glob(".release*"))
    assert verify(release(make_config(), workdir)).ok


def test_a_kill_in_the_middle_is_tidied_up(make_config, workdir):
    folder = release(make_config(), workdir)
    first = bundle.identity(folder)
    # As a SIGKILL between the two renames, and one while building, leave it.
    folder.rename(workdir / ".release.0123.old")
    (workdir / ".release.4567").mkdir()
    (workdir / ".release.4567" / "config.json").write_text("{")
    with pytest.raises(InputError):
        release(make_config(release__samples="none"), workdir)
    assert bundle.identity(folder) == first
    assert not list(workdir.glob(".release*"))


def test_weights_that_are_not_finite_or_too_large(tmp_path):
    params = {"a": np.ones(2, np.float32), "b": np.float32([1e5, 0])}
    bundle.write_parameters(tmp_path / "p", params, "float32")
    with pytest.raises(InputError, match=r"weights b .* float16"):
        bundle.write_parameters(tmp_path / "p", params, "float16")
    params["a"][1] = np.nan
    with pytest.raises(InputError, match="weights a"):
        bundle.write_parameters(tmp_path / "p", params, "float32")
