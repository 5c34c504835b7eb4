"""What stands before the history in an item-token prompt: a matching template (T2) with what is asked put in."""

from __future__ import annotations

from dataclasses import dataclass

from rayrec.instructions.templates import Templates, render


@dataclass(frozen=True)
class InstructionRenderer:
    """`split`: whose paraphrases speak, "train" or "held_out"."""

    templates: Templates
    split: str = "train"

    def __call__(self, preference: str, intention: str, *, history: bool, vague: bool = False, key: int = 0) -> str:
        """The words for an explicit preference and an intention (either may be ""), for a user with or without events.

        `vague`: the intention is a mood rather than a request. `key` chooses among the cell's templates.
        """
        template = self.templates.pick(
            preference="P2" if preference else "P1" if history else "P0",
            intention="I0" if not intention else "I1" if vague else "I2",
            task_form="T2",
            split=self.split,
            history=history,
            key=key,
        )
        return render(template, {"preference": preference, "intention": intention, "history": ""}).strip()
