"""The one exception that stands for bad input."""


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is one sentence that names the file or argument, what was expected and what came.
    The command line prints it without a traceback and exits with code 2.
    """
