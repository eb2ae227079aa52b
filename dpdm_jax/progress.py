import shutil
import sys

import tqdm

# Short enough for 80 columns; tqdm puts a comma before the postfix.
_FORMAT = "{desc} {percentage:3.0f}% |{bar}| {n}/{total}, {remaining} left{postfix}"


def progress_bar(
    what: str, total: int, *, done: int = 0, shown: bool = True
) -> tqdm.tqdm:
    """Starts a progress bar on standard error.

    Args:
        what: one word for the work.
        total: units of work in all.
        done: units done before, which don't count for the time left.
        shown: False draws nothing.

    Returns:
        The bar; ``update`` and ``set_postfix_str`` move it.
    """
    return tqdm.tqdm(
        total=total,
        initial=done,
        desc=what,
        bar_format=_FORMAT,
        disable=not shown or sys.stderr is None,
        # A bar that redraws would fill the log of a batch job.
        mininterval=0.5 if sys.stderr is not None and sys.stderr.isatty() else 15.0,
        # The time left by all units so far: of what is drawn now and then alone, tqdm
        # would smooth the rate of the first, which compiles.
        smoothing=0,
        # tqdm hides the bar where the terminal states a width of 0.
        ncols=shutil.get_terminal_size().columns,
    )
