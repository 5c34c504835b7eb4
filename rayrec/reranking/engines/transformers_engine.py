"""The reference engine: Hugging Face transformers, eager, one prompt at a time; it needs nothing but torch.

One at a time because a batch would be padded to its longest prompt, and then the last bits of a user's score would
depend on who else is in it. vLLM is the engine for throughput.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rayrec.reranking.engines.engine import Engine, EngineSettings, Failure, Float32
from rayrec.reranking.item_token.tuned_checkpoint import LocalCheckpoint


class TransformersEngine(Engine):
    name = "transformers"

    def __init__(self, model: LocalCheckpoint, settings: EngineSettings) -> None:
        from transformers import AutoModelForCausalLM

        super().__init__(model, settings)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        dtype = model.card.dtype if settings.dtype == "auto" else settings.dtype
        causal = AutoModelForCausalLM.from_pretrained(
            model.folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
        self._device = settings.device
        self._decoder = causal.get_decoder().to(self._device).eval()
        self.longest = int(causal.config.max_position_embeddings)

    def last_hidden_states(self, prompts: Sequence[list[int]]) -> list[Float32 | Failure]:
        out: list[Float32 | Failure] = []
        with torch.inference_mode():
            for prompt in prompts:
                tokens = torch.tensor([prompt], device=self._device)
                states = self._decoder(tokens, use_cache=False).last_hidden_state
                out.append(states[0, -1].float().cpu().numpy())
        return out
