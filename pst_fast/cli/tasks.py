"""The plan as a graph: what has to be done, and what each piece needs done before."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pst_fast.cli.plan import NO_ATTACK, Plan


@dataclass(frozen=True)
class Task:
    """One piece of work that a worker does whole.

    Attributes:
        kind: ``prepare``; ``poison``: craft a perturbation and apply it; ``train``: one network.
        attack, defense, seed: Which one; empty where they do not matter.
        needs: The tasks whose output it reads.
    """

    kind: Literal["prepare", "poison", "train"]
    attack: str = ""
    defense: str = ""
    seed: int = 0
    needs: tuple["Task", ...] = ()

    @property
    def label(self) -> str:
        """Its name in messages, unique in a plan."""
        if self.kind == "prepare":
            return "prepare"
        return f"{self.attack}{self.defense and '/'}{self.defense} seed {self.seed}"


@dataclass(frozen=True)
class Cell:
    """One row of the results: a training run, and the clean one that it is measured by."""

    attack: str
    defense: str
    seed: int
    trained: Task
    baseline: Task

    @cached_property
    def tasks(self) -> frozenset[Task]:
        """Everything that the row takes."""
        found: set[Task] = set()
        open_ends = [self.trained, self.baseline]
        while open_ends:
            task = open_ends.pop()
            found.add(task)
            open_ends += task.needs
        return frozenset(found)


def graph(plan: Plan) -> tuple[list[Task], list[Cell]]:
    """The tasks of a plan, each after those that it needs, and its cells in the order of the rows."""
    prepare = Task("prepare")
    tasks, cells = [prepare], []
    for seed in plan.seeds:
        baseline = Task("train", NO_ATTACK, "erm", seed, (prepare,))
        tasks.append(baseline)
        for attack in plan.attacks:
            data = prepare
            if attack != NO_ATTACK:
                data = Task("poison", attack, "", seed, (prepare,))
                tasks.append(data)
            for defense in plan.defenses:
                needs = (prepare,) if data is prepare else (prepare, data)
                trained = Task("train", attack, defense, seed, needs)
                if trained != baseline:
                    tasks.append(trained)
                cells.append(Cell(attack, defense, seed, trained, baseline))
    return tasks, cells
