class InputError(ValueError):
    """Something the user gave is wrong; the message is one sentence for them.

    It says what is wrong, its value, and what is allowed. The command line prints it
    without a traceback and exits with status 2.
    """


class Interrupted(KeyboardInterrupt):
    """Work was asked to stop, at a moment when it could save its state.

    Attributes:
        signal_number: which signal asked.
    """

    def __init__(self, signal_number: int):
        super().__init__()
        self.signal_number = signal_number
