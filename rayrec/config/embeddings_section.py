"""`embeddings`: the views of a user, the instructions, and the model and its training."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from rayrec.config.registry import method_name
from rayrec.config.section import Section

InstructionId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,99}$")]  # a folder's name


class EmbeddingViewSettings(Section):
    """A view of the user, made from the history and the catalogue. A user may lack some views."""

    kind: Annotated[str, method_name("embeddings.views.NAME.kind")]
    """The kind of view."""
    max_lines: int = Field(64, ge=1, le=1024)
    """Lines of the view at most, the newest."""


class Answer(Section):
    """The answer to an instruction in the log, from the interactions within the horizon after a cutoff.

    The kind `next` is an open answer: the words of the items consumed next. All other kinds are yes or no.
    """

    kind: Annotated[str, method_name("embeddings.instructions.NAME.answer.kind")]
    """The kind of answer."""
    words: tuple[str, ...] = ()
    """Of `takes`, which needs them: words of titles or categories."""
    at_least: float | None = None
    """Of `rates_high`, which needs it: the mean value from which on it is a yes."""

    @model_validator(mode="after")
    def _complete(self) -> Answer:
        if (self.kind == "takes") != bool(self.words):
            raise ValueError("`words` are for answers of the kind takes, which needs them")
        if (self.kind == "rates_high") != (self.at_least is not None):
            raise ValueError("`at_least` is for answers of the kind rates_high, which needs it")
        return self


class EmbeddingInstruction(Section):
    """A purpose in words. With an `answer` the model is trained on it; without, it is used for inference only."""

    text: str = Field(min_length=1, max_length=300)
    """The question or task, 1 to 300 characters."""
    answer: Answer | None = None
    """Where the log has the answer; at least one instruction needs one."""
    max_removed_share: float = Field(0.0, ge=0, le=0.5)
    """Share of each user's events, at most, that its vector does without: those of most influence on it; five stay."""


class EmbeddingModel(Section):
    """The language model and the encoders, and their sizes."""

    base: str = "scratch"
    """`scratch`, or the folder of a local Hugging Face checkpoint, tuned with LoRA."""
    lora_rank: int = Field(16, ge=1)
    """Rank of the adapters, where `base` is a checkpoint."""
    encoder_width: int = Field(64, ge=16, multiple_of=16)
    """Width of the encoders that sum up a view each; a multiple of `heads`."""
    encoder_layers: int = Field(1, ge=1)
    """Their layers."""
    heads: int = Field(2, ge=1)
    """Attention heads of the encoders, and of the language model made from scratch."""
    width: int = Field(64, ge=32, multiple_of=32)
    """Width of the language model made from scratch; a multiple of 2 × `heads`."""
    layers: int = Field(2, ge=1)
    """Its layers."""
    feedforward: int = Field(192, ge=32)
    """Its inner width."""
    dim: int = Field(64, ge=8)
    """Numbers in a vector that is published. Fewer (16) depend a little more on the instruction."""

    @model_validator(mode="after")
    def _whole_heads(self) -> EmbeddingModel:
        if self.width % (2 * self.heads) or self.encoder_width % self.heads:
            raise ValueError("width must be a multiple of 2 x heads, encoder_width one of heads")
        return self


class EmbeddingTraining(Section):
    """Training: what users did after a few cutoffs answers the instructions."""

    cutoffs: int = Field(6, ge=1)
    """Number of training cutoffs; the newest is one horizon before the date."""
    cutoff_interval_days: float = Field(15.0, gt=0)
    """Days between two of them."""
    min_item_events: int = Field(3, ge=1)
    """Items with fewer events are known by their words alone."""
    min_word_items: int = Field(2, ge=1)
    """Words of fewer titles share hash buckets."""
    max_users: int = Field(50_000, ge=1)
    """Users at most, a moment; chosen by their stable hash. What bounds memory."""
    instructions_per_user: int = Field(8, ge=1)
    """Instructions per user and epoch at most, drawn at random."""
    epochs: int = Field(8, ge=1)
    """At most: users held out decide."""
    patience: int = Field(4, ge=1)
    """Epochs without a better validation before stopping."""
    validation_share: float = Field(0.1, gt=0, lt=1)
    """Share of users that judge an epoch."""
    batch_users: int = Field(32, ge=2)
    """Users in a step; the answers of the others are the negatives of each."""
    line_dropout: float = Field(0.3, ge=0, lt=1)
    """Share of a view's lines left out at random."""
    view_dropout: float = Field(0.4, ge=0, lt=1)
    """Share of whole sources left out at random, so that users who lack one are nothing new."""
    contrastive_weight: float = Field(1.0, ge=0)
    """Weight of InfoNCE: a user's vector is near the answer's own."""
    autoregressive_weight: float = Field(1.0, ge=0)
    """Weight of saying the answer's words."""
    temperature: float = Field(0.03, gt=0)
    """Similarities are divided by it in InfoNCE: the lower, the more the nearest negatives count."""
    false_negative_margin: float = Field(0.1, ge=0)
    """An answer nearer than the own one by more than this is held to be right as well, and is no negative."""
    learning_rate: float = Field(5e-4, gt=0)
    """The highest, after the warm-up."""
    weight_decay: float = Field(0.05, ge=0)
    """Of the matrices."""
    seed: int = 0
    """Of everything drawn at random here."""


class Neighbours(Section):
    """How many nearest users and items every user gets, per instruction.

    Items only under instructions of the kind `next`: their answers are items, others have no place for them.
    """

    users: int = Field(0, ge=0, le=1000)
    """Nearest users; 0: none are published."""
    items: int = Field(0, ge=0, le=1000)
    """Nearest items; 0: none are published."""


class Influence(Section):
    """What a vector rests on: its change without each event, one at a time, per instruction. One embedding an event."""

    events: int = Field(0, ge=0, le=1000)
    """Events of most influence that are published of every user, per instruction; 0: none are."""


class Embeddings(Section):
    """Instruction-aware user embeddings, made by `jobs.embed`."""

    views: dict[InstructionId, EmbeddingViewSettings] = Field(
        {
            "events": {"kind": "events"},
            "dislikes": {"kind": "dislikes", "max_lines": 16},
            "profile": {"kind": "profile"},
            "rhythm": {"kind": "rhythm"},
            "sessions": {"kind": "sessions", "max_lines": 32},
        },
        validate_default=True,
        min_length=1,
        max_length=6,
    )
    """The views of a user by name, 1 to 6."""
    instructions: dict[InstructionId, EmbeddingInstruction] = Field(min_length=1)
    """The instructions by name, which names a folder: letters, digits, `_`, `-`."""
    horizon_days: float = Field(30.0, gt=0)
    """An answer comes from the interactions within this time after a cutoff."""
    price: str = "price"
    """The item attribute that price bands are made of; an item without it has none."""
    dislike_at_most: float | None = None
    """A value (a rating) up to this is a dislike; so is a negative weight. `null`: the weight alone."""
    session_gap_hours: float = Field(2.0, gt=0)
    """A longer pause begins a new session."""
    model: EmbeddingModel = EmbeddingModel()
    """The model."""
    training: EmbeddingTraining = EmbeddingTraining()
    """Its training."""
    neighbours: Neighbours = Neighbours()
    """Nearest users and items, published beside the vectors."""
    influence: Influence = Influence()
    """The most influential interactions, published beside the vectors."""

    @model_validator(mode="after")
    def _taught(self) -> Embeddings:
        if not any(instruction.answer for instruction in self.instructions.values()):
            raise ValueError("at least one instruction needs an `answer`, or there is nothing to train on")
        if self.neighbours.items and not self.next_item_instructions:
            raise ValueError("neighbours.items needs an instruction whose answer is of the kind next")
        return self

    @property
    def next_item_instructions(self) -> tuple[str, ...]:
        """Those that items answer."""
        return tuple(name for name, one in self.instructions.items() if one.answer and one.answer.kind == "next")

    @property
    def neighbour_lists(self) -> tuple[str, ...]:
        """`<instruction>.users` and `<instruction>.items`: what is published of neighbours."""
        users = tuple(f"{name}.users" for name in self.instructions if self.neighbours.users)
        return users + tuple(f"{name}.items" for name in self.next_item_instructions if self.neighbours.items)
