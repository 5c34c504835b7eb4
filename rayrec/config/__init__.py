"""The configuration: one pydantic tree, read from YAML, overridden with `--set a.b=c`.

    python -m rayrec.config --schema > rayrec.schema.json     # for editors
    python -m rayrec.config --reference > docs/config.md      # for readers: every key, and the settings of every method

Unknown keys are errors that name the nearest known key, repeated ones errors that name their lines. Nothing here is a
secret: credentials come from the environment (fsspec, AWS, Ray), never from config.
"""

from rayrec.config.arms import Arm, Arms, Within
from rayrec.config.data import (
    Data,
    EventDerivation,
    EventRule,
    InstructionSource,
    InteractionSource,
    ItemSource,
    Requirement,
)
from rayrec.config.feedback import Feedback
from rayrec.config.files import Column, ColumnLike, FileSource, Timestamp
from rayrec.config.rerank import Rerank
from rayrec.config.resources import Resources
from rayrec.config.sections import Blend, Denoise, Fit, Instruction, Output, Retrieval
from rayrec.config.slates import Diversify, Fallback, Pin, Range, Rules, Slate
from rayrec.config.tree import Config, load
from rayrec.config.tuning import Form, Tuning

__all__ = [
    "Arm",
    "Arms",
    "Blend",
    "Column",
    "ColumnLike",
    "Config",
    "Data",
    "Denoise",
    "Diversify",
    "EventDerivation",
    "EventRule",
    "Fallback",
    "Feedback",
    "FileSource",
    "Fit",
    "Form",
    "Instruction",
    "InstructionSource",
    "InteractionSource",
    "ItemSource",
    "Output",
    "Pin",
    "Range",
    "Requirement",
    "Rerank",
    "Resources",
    "Retrieval",
    "Rules",
    "Slate",
    "Timestamp",
    "Tuning",
    "Within",
    "load",
]
