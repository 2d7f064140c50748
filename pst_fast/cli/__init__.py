"""The command line behind ``python -m pst_fast.run``."""
