"""The chat template of a local instruct checkpoint, as the text before and after one user message.

The template is rendered once, with a marker as the message, and split there. The template never renders texts of users
or items, and their text is never parsed for special tokens.
"""

from __future__ import annotations

from pathlib import Path

from rayrec.errors import ConfigError
from rayrec.instructions.safe_tokenizer import SafeTokenizer
from rayrec.storage import limited_process
from rayrec.storage.checkpoint_safety import require_safe
from rayrec.storage.hf_checkpoint import UNLOADABLE
from rayrec.storage.tokenizer_safety import require_safe_tokenizer

_MARK = "RAYREC-MESSAGE-HERE"
# Templates that print today's date get a constant one, Llama 3's default; otherwise prompts would change every day.
_FIXED_DATE = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}"


def text_around_message(
    folder: Path, tokenizer: SafeTokenizer, where: str, *, system: str | None = None, message: str = ""
) -> tuple[str, str] | None:
    """The prompt text before and after the untrusted part of a user message; None if there is no template.

    `system` and `message` (the beginning of the user message) must be trusted text. Raises ConfigError, naming `where`,
    for unusable tokenizers and templates.
    """
    from transformers import AutoTokenizer

    require_safe(folder, where)
    require_safe_tokenizer(folder, where)
    try:
        hugging_face = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except UNLOADABLE as error:
        raise ConfigError(
            f"the checkpoint has no usable tokenizer: {error}",
            where=where,
            hint="give the folder of a complete Hugging Face checkpoint",
        ) from None
    if not set(hugging_face.added_tokens_decoder) <= tokenizer.added:
        raise ConfigError(
            "tokenizer.json lacks special tokens that tokenizer_config.json names",
            where=where,
            hint="save the tokenizer again with transformers (save_pretrained), which writes them into one file",
        )
    if hugging_face.chat_template is None:
        return None
    messages = [{"role": "system", "content": system}] if system else []
    variables = hugging_face.special_tokens_map | {
        "messages": [*messages, {"role": "user", "content": message + _MARK}],
        "tools": None,
        "documents": None,
        "add_generation_prompt": True,
        "enable_thinking": False,
    }
    try:  # a template is a program of the checkpoint's
        text = limited_process.render(_FIXED_DATE + hugging_face.get_chat_template(), variables)
    except limited_process.RefusedError as error:
        raise ConfigError(
            f"the checkpoint's chat template refuses the prompt: {error}",
            where=where,
            hint="correct chat_template in the checkpoint, or give another instruct checkpoint",
        ) from None
    except limited_process.LimitError as error:
        raise ConfigError(
            f"the checkpoint's chat template is refused: it takes {error}",
            where=where,
            hint="correct chat_template in the checkpoint, or give another instruct checkpoint",
        ) from None
    if text.count(_MARK) != 1:
        raise ConfigError(
            "the checkpoint's chat template does not show the user's message exactly once",
            where=where,
            hint="correct chat_template in the checkpoint, or give another instruct checkpoint",
        )
    before, after = text.split(_MARK)
    if after.rfind("<think>") > after.rfind("</think>"):
        raise ConfigError(
            "the checkpoint's chat template opens a <think> block where the model answers",
            where=where,
            hint="use a chat template that closes the block (for Qwen3 `enable_thinking` does), or another checkpoint",
        )
    return before, after
