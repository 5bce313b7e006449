"""What `sluice` cannot do, told in one line that says what to do; with the exit code it becomes.

```
SluiceError           1  anything that failed
  AlreadyRunning      1  another supervisor holds the data folder
  StartFailed         1  the supervisor ended while it started
  SettingsError       2  a setting breaks its rule; names key, value and rule
  NotReady            3  runs, but not all of it
  NotRunning          4  no supervisor holds the data folder
  Refused             1  the control API said no; carries its status
```

`sluice deliver` and `sluice rollout replay` have codes of their own.
"""

_HINT = "; try: "


class SluiceError(Exception):
    """Something could not be done.

    message: what, in one line. hint: the command or change that helps; empty where the message says it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}{_HINT}{self.hint}" if self.hint else self.message


class AlreadyRunning(SluiceError):
    """Another supervisor holds the data folder."""


class StartFailed(SluiceError):
    """The supervisor ended while it started; `exit_code` is the one it ended with."""

    def __init__(self, message: str, hint: str, exit_code: int = 1) -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code

    @staticmethod
    def told(line: str, exit_code: int) -> "StartFailed":
        """From the `error: ...; try: ...` line that the supervisor left behind.

        >>> str(StartFailed.told("error: port taken; try: another port", 1))
        'port taken; try: another port'
        """
        message, _, hint = line.removeprefix("error: ").partition(_HINT)
        return StartFailed(message or "the supervisor ended at once", hint or "sluice logs", exit_code or 1)


class SettingsError(SluiceError):
    """A setting breaks its rule."""

    exit_code = 2

    def __init__(self, key: str, value: object, rule: str, hint: str = "") -> None:
        super().__init__(f"{key}={value}: expected {rule}", hint or f"unset {key}")


class NotReady(SluiceError):
    """The platform runs, but not all of its processes are ready."""

    exit_code = 3


class NotRunning(SluiceError):
    """No supervisor holds the data folder."""

    exit_code = 4


class Refused(SluiceError):
    """The control API refused a request, in its own words."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason, "sluice status" if status >= 500 else "")
        self.status = status

    def __str__(self) -> str:
        return self.message
