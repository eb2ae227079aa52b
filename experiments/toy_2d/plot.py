"""Draws results.json as norms.png.

python -m experiments.toy_2d.plot
"""

import json
import pathlib

import numpy as np
from matplotlib.figure import Figure

_FOLDER = pathlib.Path(__file__).parent


def main() -> None:
    """Draws norms over noise levels, and samples of the first seed."""
    runs = json.loads((_FOLDER / "results.json").read_text())["runs"]
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    norms, *pictures = figure.subplots(1, 3, width_ratios=(1.6, 1, 1))
    sigmas = runs[0]["sigmas"]
    for name, colour in ("sampler", "C1"), ("generator", "C3"):
        values = [run[name] for run in runs]
        norms.axhspan(min(values), max(values), color=colour, alpha=0.25)
        norms.axhline(np.mean(values), color=colour, label=name)
    for name, style in ("denoiser", "-"), ("perfect_denoiser", ":"):
        values = np.mean([run[name] for run in runs], axis=0)
        norms.plot(sigmas, values, f"C0{style}", label=name.replace("_", " "))
    norms.set(xscale="log", yscale="log", xlabel="sigma")
    norms.set(title="mean Frobenius norm of the Jacobian", ylim=(1e-3, None))
    norms.legend()
    for axes, (name, points) in zip(pictures, runs[0]["points"].items(), strict=True):
        axes.plot(*np.transpose(points), ".", markersize=2)
        axes.set(title=f"points of the {name}", aspect="equal")
        axes.set(xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), xticks=[], yticks=[])
    figure.savefig(_FOLDER / "norms.png", dpi=110)


if __name__ == "__main__":
    main()
