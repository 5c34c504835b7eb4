"""The reference engine: Hugging Face transformers, one prompt at a time (see rayrec.reranking.engines.transformers_engine)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rayrec.reranking.engines.engine import EngineSettings, Failure, Float32
from rayrec.reranking.engines.next_token import NextTokenEngine
from rayrec.reranking.text.instruct_checkpoint import InstructCheckpoint


class TransformersNextTokenEngine(NextTokenEngine):
    name = "transformers"

    def __init__(self, checkpoint: InstructCheckpoint, settings: EngineSettings, longest: int) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        super().__init__(checkpoint, settings, longest)
        if settings.threads:
            torch.set_num_threads(settings.threads)
        causal = AutoModelForCausalLM.from_pretrained(
            checkpoint.folder,
            dtype=getattr(torch, checkpoint.dtype(settings.dtype)),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
        if checkpoint.adapter is not None:
            causal = PeftModel.from_pretrained(causal, str(checkpoint.adapter), local_files_only=True)
        self._device = settings.device
        self._causal = causal.to(self._device).eval()

    def next_token_log_probs(self, prompts: Sequence[list[int]], ids: Sequence[int]) -> list[Float32 | Failure]:
        out: list[Float32 | Failure] = []
        wanted = torch.tensor(ids, device=self._device)
        with torch.inference_mode():
            for prompt in prompts:
                tokens = torch.tensor([prompt], device=self._device)
                logits = self._causal(tokens, use_cache=False, logits_to_keep=1).logits[0, -1]
                out.append(torch.log_softmax(logits.float(), dim=0)[wanted].cpu().numpy())
        return out
