class InputError(ValueError):
    """Something the user gave is wrong; the message is one sentence for them.

    It says what is wrong, its value, and what is allowed. The command line prints it
    without a traceback and exits with status 2.
    """
