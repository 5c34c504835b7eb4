"""The configuration: one pydantic tree, read from YAML, overridden with `--set a.b=c`.

Unknown keys are errors that name the nearest known key; repeated keys are errors that name their lines. The config
holds no secrets: credentials come from the environment (fsspec, AWS, Ray).
"""

from rayrec.config.arms_section import Arm, Arms, ExperimentLayer
from rayrec.config.config import Config, load
from rayrec.config.data_section import (
    Data,
    EventRule,
    Feedback,
    InstructionSource,
    ItemSource,
)
from rayrec.config.file_source import Column, ColumnLike, FileSource, Timestamp
from rayrec.config.rerank_section import Rerank
from rayrec.config.resources_section import Resources
from rayrec.config.scoring_sections import Denoise, Instruction, Retrieval
from rayrec.config.slate_section import DiversitySettings, Range, Rules, Slate
from rayrec.config.text_tuning_section import TextTuning
from rayrec.config.tuning_section import RequestTask, Tuning

__all__ = [
    "Arm",
    "Arms",
    "Column",
    "ColumnLike",
    "Config",
    "Data",
    "Denoise",
    "DiversitySettings",
    "EventRule",
    "ExperimentLayer",
    "Feedback",
    "FileSource",
    "Instruction",
    "InstructionSource",
    "ItemSource",
    "Range",
    "RequestTask",
    "Rerank",
    "Resources",
    "Retrieval",
    "Rules",
    "Slate",
    "TextTuning",
    "Timestamp",
    "Tuning",
    "load",
]
