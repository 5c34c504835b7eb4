"""Denoising: which events of a history to remove. Importing the package registers every method."""

from rayrec.denoising import (
    auto,
    ease_support,
    ensemble,
    factor_denoiser,
    gradient_influence,
    heuristic_rules,
    no_denoising,
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
    "auto",
    "ease_support",
    "ensemble",
    "factor_denoiser",
    "gradient_influence",
    "heuristic_rules",
    "no_denoising",
    "ridge_influence",
    "robust_loss",
]
