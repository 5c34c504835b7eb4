"""Denoising: which events of a history to believe. Importing the package registers every method."""

from rayrec.denoising import ease, ensemble, gradient, influence, loss, nbpo, none, propensity, rules
from rayrec.denoising.base import METHODS, REASONS, Denoiser, Histories, Verdict

__all__ = [
    "METHODS",
    "REASONS",
    "Denoiser",
    "Histories",
    "Verdict",
    "ease",
    "ensemble",
    "gradient",
    "influence",
    "loss",
    "nbpo",
    "none",
    "propensity",
    "rules",
]
