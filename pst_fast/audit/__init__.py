"""Is a data set poisoned, by what kind of shortcut, and how much does a trainer recover?

Shortcuts that make data unlearnable carry over to held-back images of the same data set, and most of what
they give away is lost in a strong JPEG. Content is not. So simple learners and a small network are fit
twice, to the images as they are and to that view of them: what is learned only from the first is suspicious.
"""

from pst_fast.audit.evidence import Evidence, collect_evidence

__all__ = ["Evidence", "collect_evidence"]
