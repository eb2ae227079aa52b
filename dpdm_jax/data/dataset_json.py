"""Labels in a file ``dataset.json`` beside images, as EDM and StyleGAN write them.

``{"labels": [["00000/img00000000.png", 6], ...]}``, or null where there are none.
"""

from collections.abc import Mapping, Sequence

from dpdm_jax import json_values
from dpdm_jax.errors import InputError, reason

NAME = "dataset.json"


def read(content: bytes, where: object) -> dict[str, int] | None:
    """Reads the labels.

    Args:
        content: of the file.
        where: it is, for messages.

    Returns:
        The label of each image by its path; None if there are none.

    Raises:
        InputError: the file is damaged, or a label is no integer >= 0.
    """
    wanted = 'allowed: {"labels": [[PATH, INTEGER], ...]}, or null for the list.'
    try:
        values = json_values.loads(content)
    except ValueError as e:
        raise InputError(f"{where} cannot be read ({reason(e)}); {wanted}") from None
    labels = values.get("labels") if isinstance(values, dict) else ()
    if labels is None:
        return None
    pairs = list(labels.items()) if isinstance(labels, dict) else labels
    found: dict[str, int] = {}
    for pair in pairs if isinstance(pairs, list) else [None]:
        name, label = pair if isinstance(pair, (list, tuple)) else (None, None)
        is_label = isinstance(label, int) and not isinstance(label, bool) and label >= 0
        if not isinstance(name, str) or not is_label:
            raise InputError(f"{where} has the entry {str(pair)[:80]}; {wanted}")
        found[name] = label
    return found


def of_files(
    labels: Mapping[str, int], names: Sequence[str], where: object
) -> list[int]:
    """Returns the label of each image.

    Args:
        labels: what ``read`` returned.
        names: paths of the images.
        where: the labels are, for messages.

    Raises:
        InputError: an image has no label, or a label no image.
    """
    for name in names:
        if name not in labels:
            raise InputError(
                f"{where} has no label of {name}; allowed: one for each image."
            )
    for name in labels.keys() - set(names):
        raise InputError(
            f"{where} lists {name!r}, which is not among the images; allowed: their "
            "paths."
        )
    return [labels[name] for name in names]
