"""Memory and speed of training data that is held, and of data that is read on demand.

python -m experiments.benchmarks.data_reading --json --sizes 10000 100000

Grey images of 28x28 pixels, PNG, as shards of WebDataset and as a folder of Hugging
Face's; read into memory and on demand (``data.on_demand``), each in a process of its
own. One JSON line a size (Linux only).
"""

import argparse
import io
import json
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.benchmarks import machine, resident

_SIDE = 28
# Files differ as little as those of MNIST do in size; more of them would take hours.
_DISTINCT = 500
_SHARD = 10_000  # images, as writers of WebDataset cut them
_BATCH = 512
_BATCHES = 20
_MARK = "measured: "


def _write_webdataset(shard: pathlib.Path, count: int) -> None:
    files = _pngs()
    shard.mkdir()
    for start in range(0, count, _SHARD):
        path = shard / f"train-{start // _SHARD:05d}.tar"
        with tarfile.open(path, "w") as archive:
            for i in range(start, min(start + _SHARD, count)):
                member = tarfile.TarInfo(f"{i:07d}.png")
                member.size = len(files[i % _DISTINCT])
                archive.addfile(member, io.BytesIO(files[i % _DISTINCT]))


def _write_huggingface(table: pathlib.Path, count: int) -> None:
    import pyarrow

    files = _pngs()
    table.mkdir()
    image = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    schema = pyarrow.schema([("image", image)])
    name = "data-00000-of-00001.arrow"
    with pyarrow.ipc.new_stream(str(table / name), schema) as stream:
        for start in range(0, count, 1000):
            rows = range(start, min(start + 1000, count))
            content = [{"bytes": files[i % _DISTINCT], "path": None} for i in rows]
            stream.write_table(pyarrow.table({"image": content}, schema=schema))
    state = {"_data_files": [{"filename": name}]}
    (table / "state.json").write_text(json.dumps(state))


def _pngs() -> list[bytes]:
    from PIL import Image

    rng = np.random.default_rng(0)
    found = []
    for _ in range(_DISTINCT):
        small = rng.integers(0, 256, (7, 7), np.uint8)
        file = io.BytesIO()
        Image.fromarray(small).resize((_SIDE, _SIDE)).save(file, format="PNG")
        found.append(file.getvalue())
    return found


_WRITERS = {"webdataset": _write_webdataset, "huggingface": _write_huggingface}
_READINGS = {
    f"{source}_{'on_demand' if on_demand else 'in_memory'}": (source, on_demand)
    for source in _WRITERS
    for on_demand in (False, True)
}


def _measure(source_name: str, path: str, on_demand: bool) -> dict[str, Any]:
    from dpdm_jax import data
    from dpdm_jax.configs import base

    config = base.get_config().data
    config.update(
        {"source": source_name, "path": path, "on_demand": on_demand, "num_classes": 0}
    )
    found: dict[str, Any] = {}

    def run() -> None:
        start = time.perf_counter()
        source = data.load_source(config, "train")
        found["open_seconds"] = time.perf_counter() - start
        start = time.perf_counter()
        bound, content = data.bind(source)
        found["digest_seconds"] = time.perf_counter() - start
        found["digest"] = content.hex()
        rng = np.random.default_rng(1)
        start = time.perf_counter()
        for _ in range(_BATCHES):
            data.load_batch(bound, rng.choice(len(bound), _BATCH))
        seconds = time.perf_counter() - start
        found["images_per_second"] = _BATCHES * _BATCH / seconds
        # Pages of mapped files are the system's, which takes them back.
        found["bytes"] = resident.status_bytes("RssAnon")
        found["images"] = len(source)

    before = resident.status_bytes("RssAnon")
    found["peak_bytes"] = resident.rise(run)
    found["bytes"] -= before
    return found


def measured(source: str, path: pathlib.Path, *, on_demand: bool) -> dict[str, Any]:
    """Opens, digests and reads batches of a source, in a new process.

    Args:
        source: ``data.source``.
        path: of the data.
        on_demand: whether images stay in their files.
    """
    child = [source, str(path), str(int(on_demand))]
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name, "--child", *child],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=pathlib.Path(__file__).resolve().parents[2],
    )
    result: dict[str, Any] = json.loads(done.stdout.rpartition(_MARK)[2])
    return result


def compared(count: int, names: Sequence[str]) -> dict[str, Any]:
    """Measures a number of images.

    Args:
        count: how many.
        names: of ``_READINGS``.
    """
    readings = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in names:
            source, on_demand = _READINGS[name]
            path = pathlib.Path(temporary) / source
            if not path.exists():
                _WRITERS[source](path, count)
            readings[name] = measured(source, path, on_demand=on_demand)
    digests = {reading.pop("digest") for reading in readings.values()}
    ratios = [
        readings[f"{source}_on_demand"]["bytes"]
        / readings[f"{source}_in_memory"]["bytes"]
        for source in _WRITERS
        if {f"{source}_on_demand", f"{source}_in_memory"} <= {*names}
    ]
    return {
        "benchmark": "data_reading",
        "images": count,
        "images_bytes": count * _SIDE**2,
        "same_digest": len(digests) == 1,
        "on_demand_over_in_memory": max(ratios, default=None),
        "readings": readings,
        "machine": machine.describe(),
        "commit": machine.commit(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Prints readable lines, or with --json one JSON line a size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument(
        "--readings", nargs="+", choices=_READINGS, default=list(_READINGS)
    )
    parser.add_argument("--quick", action="store_true", help="few images, one format")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        source, path, on_demand = options.child
        print(f"{_MARK}{json.dumps(_measure(source, path, on_demand == '1'))}")
        return
    if options.quick:
        options.sizes, options.readings = [2_000], list(_READINGS)[:2]
    for count in options.sizes:
        result = compared(count, options.readings)
        if options.json:
            print(json.dumps(result), flush=True)
            continue
        for name, reading in result["readings"].items():
            print(
                f"{count} images, {name}: {reading['bytes'] / 2**20:.0f} MiB, opened "
                f"in {reading['open_seconds']:.1f} s, digested in "
                f"{reading['digest_seconds']:.1f} s, "
                f"{reading['images_per_second']:.0f} images/s"
            )


if __name__ == "__main__":
    main()
