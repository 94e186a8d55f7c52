"""The mistakes that people make, in one list, the most common first."""

from bnexport.diagnose.case import Hypothesis
from bnexport.diagnose.hypotheses import layers, norms, signals

REGISTRY: tuple[Hypothesis, ...] = (*norms.HYPOTHESES, *signals.HYPOTHESES, *layers.HYPOTHESES)
"""Where several explain the numbers equally well, the earlier one is taken to be likelier."""
