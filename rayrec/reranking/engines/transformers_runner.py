"""The reference engine: Hugging Face transformers, eager, one prompt at a time. It needs only torch.

Prompts are not batched: padding would make the last bits of a score depend on the other prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from rayrec.errors import ConfigError
from rayrec.reranking.engines.engine import Engine, EngineSettings, Failure, Float32, ModelFiles, Task
from rayrec.storage import hf_checkpoint
from rayrec.storage.checkpoint_safety import require_safe


class TransformersRunner(Engine):
    """Engine for the tasks "hidden_state" and "next_token"."""

    name = "transformers"

    def __init__(
        self, model: ModelFiles, task: Task, settings: EngineSettings, max_prompt_tokens: int | None = None
    ) -> None:
        super().__init__(model, task, settings, max_prompt_tokens)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        causal = hf_checkpoint.load_causal_lm(model.folder, "rerank", dtype=getattr(torch, self._dtype))
        if model.adapter is not None:
            from peft import PeftModel

            require_safe(Path(model.adapter), f"rerank.adapter: {model.adapter}", adapter=True)
            try:
                causal = PeftModel.from_pretrained(causal, model.adapter, local_files_only=True)
            except hf_checkpoint.UNLOADABLE as error:
                raise ConfigError(
                    f"the adapter does not fit the checkpoint: {' '.join(str(error).split())[:500]}",
                    where=f"rerank.adapter: {model.adapter}",
                    hint="give the adapter that was tuned on rerank.checkpoint",
                ) from None
        self._model = (causal.get_decoder() if task == "hidden_state" else causal).to(self.device).eval()

    def _last_hidden_states(self, prompts: Sequence[list[int]]) -> list[Float32 | Failure]:
        out: list[Float32 | Failure] = []
        with torch.inference_mode():
            for prompt in prompts:
                tokens = torch.tensor([prompt], device=self.device)
                states = self._model(tokens, use_cache=False).last_hidden_state
                out.append(states[0, -1].float().cpu().numpy())
        return out

    def _next_token_log_probs(self, prompts: Sequence[list[int]], ids: Sequence[int]) -> list[Float32 | Failure]:
        out: list[Float32 | Failure] = []
        wanted = torch.tensor(ids, device=self.device)
        with torch.inference_mode():
            for prompt in prompts:
                tokens = torch.tensor([prompt], device=self.device)
                logits = self._model(tokens, use_cache=False, logits_to_keep=1).logits[0, -1]
                out.append(torch.log_softmax(logits.float(), dim=0)[wanted].cpu().numpy())
        return out
