"""The ledger of a run of several processes: written by one, known to all."""

from collections.abc import Callable
from typing import Any

from dpdm_jax import processes
from dpdm_jax.privacy import Ledger, LedgerRecord


class SharedLedger:
    """The ledger, on process 0, and its contents, on every process.

    All processes call its methods together. None returns before process 0 has written
    the file, so that no process starts work which the ledger does not count.

    Attributes:
        record: the contents, as last written.
    """

    record: LedgerRecord
    _ledger: Ledger  # of process 0 alone

    def __init__(self, make: Callable[[], Ledger]):
        """Opens or creates the file.

        Args:
            make: opens or creates it; called on process 0.

        Raises:
            InputError: see ``Ledger``; on every process.
        """

        def open_file() -> None:
            self._ledger = make()

        self._share(open_file)

    def authorize(self, up_to_step: int) -> None:
        """Counts the steps 0 to ``up_to_step - 1`` as spent; see ``Ledger.authorize``.

        Raises:
            InputError: no further step may run; on every process.
        """
        if up_to_step > self.record.authorized_steps:
            self._share(lambda: self._ledger.authorize(up_to_step))

    def _share(self, act: Callable[[], None]) -> None:
        def act_and_tell() -> dict[str, Any]:
            act()
            return self._ledger.record.to_dict()

        self.record = LedgerRecord.from_dict(processes.from_first(act_and_tell))
