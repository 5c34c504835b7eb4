"""Denoising: which events of a history to believe. Importing the package registers every method."""

from rayrec.denoising import (
    ease_support,
    ensemble,
    gradient_influence,
    heuristic_rules,
    nbpo,
    no_denoising,
    rel_mf,
    ridge_influence,
    robust_loss,
)
from rayrec.denoising.denoiser import DENOISERS, REASONS, Denoiser, DenoisingDecision, Histories

__all__ = [
    "DENOISERS",
    "REASONS",
    "Denoiser",
    "DenoisingDecision",
    "Histories",
    "ease_support",
    "ensemble",
    "gradient_influence",
    "heuristic_rules",
    "nbpo",
    "no_denoising",
    "rel_mf",
    "ridge_influence",
    "robust_loss",
]
