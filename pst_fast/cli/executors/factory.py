"""From a plan to its executor."""

from pst_fast.cli.executors.base import Executor
from pst_fast.cli.plan import Plan


def make_executor(plan: Plan) -> Executor:
    """The executor that ``plan`` asks for."""
    if plan.executor == "ray":
        from pst_fast.cli.executors.ray import RayExecutor

        return RayExecutor(plan)
    if plan.executor == "slurm":
        from pst_fast.cli.executors.slurm import SlurmExecutor

        return SlurmExecutor(plan)
    from pst_fast.cli.executors.local import InProcess, Pool

    return InProcess(plan) if plan.workers == 1 else Pool(plan)
