"""Progressive Staged Training: measure and break unlearnable examples (arXiv 2306.02064)."""

__version__ = "0.1.0"
