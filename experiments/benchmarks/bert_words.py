"""A vocabulary of as many words as that of bert-base-uncased, none of them BERT's.

For plans and compilations, which depend on its size alone.
"""

import pathlib

SIZE = 30_522
_SPECIAL = ("[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]")


def write(folder: pathlib.Path) -> str:
    """Writes the file ``vocab.txt``, a word a line.

    Args:
        folder: it lies in.

    Returns:
        Its path, for ``config.data.captions.vocabulary``.
    """
    words = [f"word{i}" for i in range(SIZE - len(_SPECIAL))]
    path = folder / "vocab.txt"
    path.write_text("\n".join([*_SPECIAL, *words]) + "\n")
    return str(path)
