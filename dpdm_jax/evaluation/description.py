"""Results of an evaluation, in a few lines."""

from typing import Any

from dpdm_jax.evaluation import alignment, metrics


def describe(results: dict[str, Any]) -> str:
    """Says in a few lines what ``metrics.measure`` found."""
    lines = [
        f"{results['synthetic']} ({results['num_synthetic']} images) against "
        f"{results['real']} ({results['num_real']} images):"
    ]
    for name in (name for name in metrics.names() if name in results):
        line = f"  {name:<18} {_with_spread(results, name)}"
        if f"{name}_floor" in results:
            line += f" (real against real: {results[f'{name}_floor']:.6g})"
        if f"{name}{alignment.REAL_TEST}" in results:
            shown = _with_spread(results, f"{name}{alignment.REAL_TEST}")
            line += f" (real test images: {shown})"
        lines.append(line + _of_ensemble(results, name))
        if name == alignment.NAME:
            of_each = results["details"][name]["of_each_class"].items()
            shares = ", ".join(f"{label}: {share:.3g}" for label, share in of_each)
            lines.append(f"    by class: {shares}")
        for suffix, how in (("real", "as they are"), ("dp_sgd", "by DP-SGD")):
            beside = f"{name}_{suffix}"
            if beside in results:
                line = f"    trained on real images {how}: "
                line += _with_spread(results, beside)
                lines.append(line + _of_ensemble(results, beside))
    lines += [f"  note: {caveat}." for caveat in results["caveats"]]
    lines.append(f"  {results['private']}.")
    return "\n".join(lines)


def _with_spread(results: dict[str, Any], name: str) -> str:
    spread = results.get(f"{name}_std")
    return f"{results[name]:.6g}" + ("" if spread is None else f" +- {spread:.2g}")


def _of_ensemble(results: dict[str, Any], name: str) -> str:
    accuracy = results.get(f"{name}_ensemble")
    return "" if accuracy is None else f" (as one ensemble: {accuracy:.6g})"
