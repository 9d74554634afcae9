"""Mistakes that a user can mend."""


class UserError(ValueError):
    """What was given cannot be used; the message is one sentence that says what, and what is possible.

    The command line prints it without a traceback and exits with code 2.
    """
