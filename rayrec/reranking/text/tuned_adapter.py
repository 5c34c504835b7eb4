"""A text reranker's tuned adapter as files: a PEFT LoRA folder and its card, a `rayrec.storage.published_folder`."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rayrec.storage import Storage, layout, published_folder

FORMAT = 1  # version of the files and of the tuning code
_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class AdapterCard:
    """What an adapter was tuned for, and how."""

    base: str  # name and content digest of the checkpoint
    method: str  # of the text reranker
    scorer_settings: Mapping[str, Any]
    templates: str  # digest
    settings: Mapping[str, Any]  # of the tuning
    users: int
    now: int  # microseconds UTC: prompts know nothing at or after it
    until: int  # microseconds UTC: answers are what was consumed in [now, until)
    curve: tuple[Mapping[str, float], ...]  # loss and tokens, one row per round of steps

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "format": FORMAT}


def publish(model: Any, card: AdapterCard, storage: Storage, path: str) -> bool:
    """Save the LoRA weights of a PEFT model; False if another run published the adapter first."""
    with tempfile.TemporaryDirectory() as temporary:
        saved, folder = Path(temporary) / "saved", Path(temporary) / "adapter"
        folder.mkdir()
        model.save_pretrained(str(saved), safe_serialization=True)
        config = json.loads((saved / _FILES[0]).read_text(encoding="utf8"))
        # A path of this machine; the checkpoint of the config is the base. Sorted: peft writes modules as a set.
        config |= {"base_model_name_or_path": None, "target_modules": sorted(config["target_modules"])}
        (folder / _FILES[0]).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf8")
        shutil.move(saved / _FILES[1], folder / _FILES[1])
        return published_folder.publish(folder, card.as_json(), storage, path)


def read_card(storage: Storage, path: str) -> dict[str, Any]:
    """The card as plain data. Raises MissingFileError if there is no adapter, DataError if its record is unreadable."""
    card = published_folder.read_record(storage, path)["card"]
    if not isinstance(card, dict):
        raise published_folder.unreadable(storage.url(layout.llm_record_path(path)))
    return card
