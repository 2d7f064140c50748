"""When a training is checked, and when what the checks find is to be acted on."""


class Cadence:
    """Says after which steps a check is due.

    The next one is due ``interval`` steps after the last, or when a ``growth``-th of the steps so far have
    passed since, whichever is later. So early traps are found early, the number of checks grows with the
    logarithm of the training's length, and going back some checks loses a share of the training so far.

    Args:
        interval: Steps between checks at first.
        growth: The larger the more checks; None: all are ``interval`` steps apart.
        patience: Checks in a row that may find something before it is acted on: what a young network shows
            at one check may be gone at the next. They are ``interval`` steps apart.

    Attributes:
        steps: Taken so far.

    Raises:
        ValueError: A setting is out of its range.
    """

    def __init__(self, interval: int, growth: int | None = None, patience: int = 0) -> None:
        for name, value, least in (
            ("interval", interval, 1),
            ("growth", growth, 1),
            ("patience", patience, 0),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")
        self.interval, self.growth, self.patience = interval, growth, patience
        self.steps, self._due, self._found = 0, interval, 0

    def step(self) -> bool:
        """Count a step; whether a check is due after it."""
        self.steps += 1
        if self.steps < self._due:
            return False
        self._due = self.steps + max(self.interval, self.steps // self.growth if self.growth else 0)
        return True

    def confirms(self, found: bool) -> bool:
        """Take note of whether the check found something; whether that is to be acted on.

        If it is not yet, the next check is due ``interval`` steps from now at the latest.
        """
        self._found = self._found + 1 if found else 0
        if not found:
            return False
        if self._found <= self.patience:
            self._due = min(self._due, self.steps + self.interval)
            return False
        self._found = 0
        return True

    def checks(self, steps: int) -> int:
        """How many checks a training of so many steps has."""
        twin = Cadence(self.interval, self.growth)
        return sum(twin.step() for _ in range(steps))

    def state_dict(self) -> dict[str, int]:
        """What a resumed run needs."""
        return {"steps": self.steps, "due": self._due, "found": self._found}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take up what :meth:`state_dict` gave."""
        self.steps, self._due, self._found = state["steps"], state["due"], state["found"]
