"""The method: the measurement and the schedule. Usable without the rest of the package."""

from pst_fast.pst.acm import ActivationClusterMeasurement
from pst_fast.pst.lda import spatial_lda, spatial_ldas
from pst_fast.pst.schedule import ProgressiveStagedTraining, StageEvent
from pst_fast.pst.stages import Stage, find_stages
from pst_fast.pst.trigger import Finding, OverThreshold, OverViews

__all__ = [
    "ActivationClusterMeasurement",
    "Finding",
    "OverThreshold",
    "OverViews",
    "ProgressiveStagedTraining",
    "Stage",
    "StageEvent",
    "find_stages",
    "spatial_lda",
    "spatial_ldas",
]
