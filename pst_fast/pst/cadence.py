"""When a training is checked: every few steps, or every few at first and then ever more rarely."""


class Cadence:
    """Says after which steps a check is due.

    The next one is due ``interval`` steps after the last, or when a ``growth``-th of the steps so far have
    passed since, whichever is later. So early traps are found early, the number of checks grows with the
    logarithm of the training's length, and going back some checks loses a share of the training so far.

    Args:
        interval: Steps between checks at first.
        growth: The larger the more checks; None: all are ``interval`` steps apart.

    Attributes:
        steps: Taken so far.

    Raises:
        ValueError: One of the two is below 1.
    """

    def __init__(self, interval: int, growth: int | None = None) -> None:
        for name, value in (("interval", interval), ("growth", growth)):
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        self.interval, self.growth = interval, growth
        self.steps, self._due = 0, interval

    def step(self) -> bool:
        """Count a step; whether a check is due after it."""
        self.steps += 1
        if self.steps < self._due:
            return False
        self._due = self.steps + max(self.interval, self.steps // self.growth if self.growth else 0)
        return True

    def hurry(self) -> None:
        """Have the next check ``interval`` steps from now at the latest."""
        self._due = min(self._due, self.steps + self.interval)

    def checks(self, steps: int) -> int:
        """How many checks a training of so many steps has."""
        twin = Cadence(self.interval, self.growth)
        return sum(twin.step() for _ in range(steps))

    def state_dict(self) -> dict[str, int]:
        """What a resumed run needs."""
        return {"steps": self.steps, "due": self._due}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take up what :meth:`state_dict` gave."""
        self.steps, self._due = state["steps"], state["due"]
