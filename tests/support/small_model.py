"""An untuned model over a small catalogue, published as tuning would publish it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import torch

from rayrec.config import Tuning
from rayrec.reranking.item_token import item_lm, item_vocabulary, tuned_checkpoint
from rayrec.reranking.item_token.tuned_checkpoint import ModelCard
from rayrec.storage import Storage

INSTRUCTION = "Recommend what this user will want next."
PATH = "models/lm/small"
KNOWN = [f"i{code:03}" for code in range(0, 300, 2)]  # every other item of the catalogue has a token
SETTINGS = Tuning(layers=2, width=64, heads=2, feedforward=128, events=30)


def catalogue() -> pa.Table:
    ids = [f"i{code:03}" for code in range(300)]
    return pa.table({"item_id": ids, "title": [f"Thing {code}" for code in range(300)]})


def publish(root: Path, storage: Storage, path: str = PATH) -> ModelCard:
    """`root`: a folder to build in; `path`: of the checkpoint. Weights are large enough for scores to differ."""
    folder = root / "build"
    folder.mkdir()
    tokenizer = item_vocabulary.scratch_tokenizer([INSTRUCTION], catalogue()["title"].to_pylist(), len(KNOWN))
    vocab = item_vocabulary.vocabulary_from_tokenizer(tokenizer, len(KNOWN))
    tokenizer.save_pretrained(str(folder))
    lm = item_lm.build(SETTINGS, vocab, 128)
    with torch.no_grad():
        lm.items.mul_(8)
    lm.export(folder)
    settings = SETTINGS.model_dump(mode="json")
    card = ModelCard(vocab, tuple(KNOWN), SETTINGS.events, "scratch", "float32", settings, (), 1)
    tuned_checkpoint.publish(folder, card, storage, path)
    return card
