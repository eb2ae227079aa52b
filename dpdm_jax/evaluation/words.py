"""What to say of a metric to people who have not met it."""

import dataclasses

LOWER = "lower is better"
HIGHER = "higher is better"


@dataclasses.dataclass(frozen=True)
class Words:
    """What to say of a metric.

    Attributes:
        name: what asks for it, and its number in results.
        title: its name for people.
        better: which way is better, ``LOWER``, ``HIGHER`` or such.
        meaning: one sentence.
        title_elsewhere: its title on other features than Inception's, where other
            people's figures under the usual one are no match; empty for the usual one.
    """

    name: str
    title: str
    better: str
    meaning: str
    title_elsewhere: str = ""
