import re
from collections.abc import Sequence

# What an error calls an object of Python's, which says nothing to people.
_OBJECT = re.compile(r" ?<[\w.]+ object at 0x[0-9a-f]+>")


class InputError(ValueError):
    """Something the user gave is wrong; the message is one sentence for them.

    It says what is wrong, its value, and what is allowed. The command line prints it
    without a traceback and exits with status 2.
    """


def reason(error: BaseException) -> str:
    """Returns what a library's error says, in a form that fits into a sentence.

    Returns:
        Its kind, and its first sentence if it has one, cut at 120 characters.
    """
    lines = _OBJECT.sub("", str(error)).strip().splitlines()
    said = lines[0].split(". ")[0][:120].rstrip(". ") if lines else ""
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


class Interrupted(KeyboardInterrupt):
    """Work was asked to stop, at a moment when it could save its state.

    Attributes:
        signal_number: which signal asked.
    """

    def __init__(self, signal_number: int):
        super().__init__()
        self.signal_number = signal_number


def listed(names: Sequence[str], most: int = 5) -> str:
    """Returns the first few of many names for a message, and how many more there are.

        >>> listed(["a", "b", "c"], most=2)
        'a, b and 1 more'

    Args:
        names: what is listed.
        most: of them that are named.
    """
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
