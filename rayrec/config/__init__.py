"""The configuration: one pydantic tree, read from YAML, overridden with `--set a.b=c`.

    python -m rayrec.config --schema > rayrec.schema.json     # for editors

Unknown keys are errors that name the nearest known key, repeated ones errors that name their lines. Nothing here is a
secret: credentials come from the environment (fsspec, AWS, Ray), never from config.
"""

from rayrec.config.data import (
    Column,
    ColumnLike,
    Data,
    EventDerivation,
    EventRule,
    FileSource,
    InstructionSource,
    InteractionSource,
    ItemSource,
    Requirement,
    Timestamp,
)
from rayrec.config.feedback import Feedback
from rayrec.config.sections import (
    Arm,
    Arms,
    Blend,
    Denoise,
    Fit,
    Form,
    Instruction,
    Output,
    Rerank,
    Resources,
    Retrieval,
    Tuning,
    Within,
)
from rayrec.config.slates import Diversify, Fallback, Pin, Range, Rules, Slate
from rayrec.config.tree import Config, load

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
