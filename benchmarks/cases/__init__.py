"""What the benchmark of the ops measures: a module a family of ops, each with ``cases``."""
