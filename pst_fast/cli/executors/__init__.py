"""Where the tasks of a run are done: in this process, in a local pool, on Ray, under Slurm."""
