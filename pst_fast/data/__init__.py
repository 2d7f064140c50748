"""Data sets, the ``.beton`` files they are kept in, and the loaders that read those.

``prepare`` turns a data set by name into a folder with ``train.beton`` and ``test.beton``; ``make_loader``
reads them, through FFCV, plain torch or a tensor on the device, all three in the same order.
``load_perturbation`` reads what others have published.
"""

from pst_fast.data.perturbations import load_perturbation

__all__ = ["load_perturbation"]
