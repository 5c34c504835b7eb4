"""`embeddings`: the views of a user, the instructions, the model and its training."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from rayrec.config.registry import method_name
from rayrec.config.section import Checkpoint, Section

InstructionId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,99}$")]  # also a folder name


class EmbeddingViewSettings(Section):
    """A view of the user, derived from history and catalogue. A user may lack some views."""

    kind: Annotated[str, method_name("embeddings.views.NAME.kind")]
    """The kind of view."""
    max_lines: int = Field(64, ge=1, le=1024)
    """Maximum number of lines; the newest are retained."""


class Answer(Section):
    """The answer to an instruction, derived from the interactions within the horizon after a cutoff.

    The kind `next` is an open answer: the words of the items consumed next. All other kinds are yes or no.
    """

    kind: Annotated[str, method_name("embeddings.instructions.NAME.answer.kind")]
    """The kind of answer."""
    words: tuple[str, ...] = ()
    """For kind `takes`, required: words of titles or categories."""
    at_least: float | None = None
    """For kind `rates_high`, required: the smallest mean value that counts as yes."""

    @model_validator(mode="after")
    def _complete(self) -> Answer:
        if (self.kind == "takes") != bool(self.words):
            raise ValueError("`words` are for answers of the kind takes, which needs them")
        if (self.kind == "rates_high") != (self.at_least is not None):
            raise ValueError("`at_least` is for answers of the kind rates_high, which needs it")
        return self


class EmbeddingInstruction(Section):
    """A purpose in words. The model is trained on instructions with an `answer`; those without are for inference
    only."""

    text: str = Field(min_length=1, max_length=300)
    """The question or task, 1 to 300 characters."""
    answer: Answer | None = None
    """How the answer is derived from the log; at least one instruction needs one."""
    max_removed_share: float = Field(0.0, ge=0, le=0.5)
    """Largest share of a user's events excluded from the vector, the most influential first; at least five events
    remain."""


class EmbeddingModel(Section):
    """The language model and the view encoders, and their sizes."""

    base: Checkpoint = "scratch"
    """`scratch`, or a Hugging Face checkpoint, as in `tuning.base`, tuned with LoRA."""
    lora_rank: int = Field(16, ge=1)
    """Rank of the LoRA adapters where `base` is a checkpoint."""
    encoder_width: int = Field(64, ge=16, multiple_of=16)
    """Hidden size of the view encoders; a multiple of `heads`."""
    encoder_layers: int = Field(1, ge=1)
    """Number of encoder layers."""
    heads: int = Field(2, ge=1)
    """Number of attention heads of the encoders, and of the language model from scratch."""
    width: int = Field(64, ge=32, multiple_of=32)
    """Hidden size of the language model from scratch; a multiple of 2 × `heads`."""
    layers: int = Field(2, ge=1)
    """Number of its layers."""
    feedforward: int = Field(192, ge=32)
    """Size of its feed-forward layers."""
    dim: int = Field(64, ge=8)
    """Dimension of the published vectors. Fewer (16) depend slightly more on the instruction."""

    @model_validator(mode="after")
    def _whole_heads(self) -> EmbeddingModel:
        if self.width % (2 * self.heads) or self.encoder_width % self.heads:
            raise ValueError("width must be a multiple of 2 x heads, encoder_width one of heads")
        return self


class EmbeddingTraining(Section):
    """Training on answers to the instructions, derived from what users did after a few cutoffs."""

    cutoffs: int = Field(6, ge=1)
    """Number of training cutoffs; the newest is one horizon before the date."""
    cutoff_interval_days: float = Field(15.0, gt=0)
    """Days between two cutoffs."""
    min_item_events: int = Field(3, ge=1)
    """Items with fewer events are represented by their words alone."""
    min_word_items: int = Field(2, ge=1)
    """Words that occur in fewer titles share hash buckets."""
    max_users: int = Field(50_000, ge=1)
    """Maximum number of users per cutoff, chosen by a stable hash. Bounds memory."""
    instructions_per_user: int = Field(8, ge=1)
    """Maximum number of instructions per user and epoch, drawn at random."""
    epochs: int = Field(8, ge=1)
    """Maximum number of epochs; the validation users decide."""
    patience: int = Field(4, ge=1)
    """Epochs without a better validation loss before training stops."""
    validation_share: float = Field(0.1, gt=0, lt=1)
    """Share of users held out for validation."""
    batch_users: int = Field(32, ge=2)
    """Users per step; the answers of the other users in the step are negatives."""
    line_dropout: float = Field(0.3, ge=0, lt=1)
    """Share of a view's lines dropped at random."""
    view_dropout: float = Field(0.4, ge=0, lt=1)
    """Share of whole views dropped at random, to train for users who lack some."""
    contrastive_weight: float = Field(1.0, ge=0)
    """Weight of the InfoNCE loss between a user's vector and the vector of the answer."""
    autoregressive_weight: float = Field(1.0, ge=0)
    """Weight of the autoregressive loss on the answer's words."""
    temperature: float = Field(0.03, gt=0)
    """Temperature of InfoNCE: the lower, the more the nearest negatives count."""
    false_negative_margin: float = Field(0.1, ge=0)
    """Another user's answer that is more similar than the own one by this margin is no negative: it is presumed right
    too."""
    learning_rate: float = Field(5e-4, gt=0)
    """Peak learning rate, after the warm-up."""
    weight_decay: float = Field(0.05, ge=0)
    """Weight decay of matrices."""
    seed: int = 0
    """Seed of all random numbers of the training."""


class Neighbours(Section):
    """Number of nearest users and items per user and instruction.

    Nearest items exist only for instructions of the kind `next`, whose answers are items.
    """

    users: int = Field(0, ge=0, le=1000)
    """Nearest users; 0: none."""
    items: int = Field(0, ge=0, le=1000)
    """Nearest items; 0: none."""


class Influence(Section):
    """Influence of events on a vector: its change without each event, one at a time, per instruction. Costs one
    embedding an event."""

    events: int = Field(0, ge=0, le=1000)
    """Number of most influential events published per user and instruction; 0: none."""


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
    """The instructions by name, also a folder name: letters, digits, `_`, `-`."""
    horizon_days: float = Field(30.0, gt=0)
    """Days after a cutoff whose interactions give the answer."""
    price: str = "price"
    """The item attribute for price bands; an item without it has no band."""
    dislike_at_most: float | None = None
    """The largest value (a rating) that is a dislike; a negative weight is one too. `null`: the weight alone
    decides."""
    session_gap_hours: float = Field(2.0, gt=0)
    """Length of a pause that starts a new session."""
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
        """The instructions of kind `next`, whose answers are items."""
        return tuple(name for name, one in self.instructions.items() if one.answer and one.answer.kind == "next")

    @property
    def neighbour_lists(self) -> tuple[str, ...]:
        """Names of the published neighbour lists: `<instruction>.users` and `<instruction>.items`."""
        users = tuple(f"{name}.users" for name in self.instructions if self.neighbours.users)
        return users + tuple(f"{name}.items" for name in self.next_item_instructions if self.neighbours.items)
