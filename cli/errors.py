"""How a command fails: one line that says what, one that says what to do, and an exit code."""

FAILED = 1
USAGE = 2


class CliError(Exception):
    """A failure for a person: no traceback, exit code 1 (failed) or 2 (asked wrongly)."""

    def __init__(self, message: str, hint: str = "", *, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = exit_code


class UsageError(CliError):
    """The command line itself does not make sense."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint, exit_code=USAGE)
