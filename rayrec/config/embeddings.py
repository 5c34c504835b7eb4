"""`embeddings`: which views of a user are read, what is asked of them, and how the model that answers is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from rayrec.config.data import Section

InstructionId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,99}$")]  # a folder's name


class EmbeddingSource(Section):
    """A view of the user, made from the history and the catalogue. Users who lack one are normal."""

    kind: Literal["events", "dislikes", "profile", "rhythm", "sessions"]
    newest: int = Field(64, ge=1, le=1024)  # lines read, the newest


class Answer(Section):
    """What a log says in answer to an instruction, from the events within the horizon after a cut.

    again       takes something again
    takes       takes an item with one of `words` in its title or category; of those who take any
    price_up    the mean of the items' `price` is above that of the history (by a tenth); of those who take any
    returns     has an event of negative weight; of those who have any event
    rates_high  the mean value is at least `at_least`; of those who give one
    next        the words of what is taken next: an open answer, of those who take any
    """

    kind: Literal["again", "takes", "price_up", "returns", "rates_high", "next"]
    words: tuple[str, ...] = ()
    at_least: float | None = None

    @model_validator(mode="after")
    def _complete(self) -> Answer:
        if (self.kind == "takes") != bool(self.words):
            raise ValueError("`words` are for answers of the kind takes, which needs them")
        if (self.kind == "rates_high") != (self.at_least is not None):
            raise ValueError("`at_least` is for answers of the kind rates_high, which needs it")
        return self


class EmbeddingInstruction(Section):
    """A purpose in words. With an `answer` the model is taught it; without, it is only asked."""

    text: str = Field(min_length=1, max_length=300)
    answer: Answer | None = None


class EmbeddingModel(Section):
    """What reads the summaries and the instruction, and sizes."""

    base: str = "scratch"  # or the path of a local Hugging Face checkpoint, tuned with LoRA
    lora_rank: int = Field(16, ge=1)
    encoder_width: int = Field(64, ge=16, multiple_of=16)
    encoder_layers: int = Field(1, ge=1)
    heads: int = Field(2, ge=1)  # of the encoders, and of the language model made from scratch
    width: int = Field(64, ge=32, multiple_of=32)  # width, layers, feedforward: of the latter
    layers: int = Field(2, ge=1)
    feedforward: int = Field(192, ge=32)
    dim: int = Field(64, ge=8)  # of the vectors that are published

    @model_validator(mode="after")
    def _whole_heads(self) -> EmbeddingModel:
        if self.width % (2 * self.heads) or self.encoder_width % self.heads:
            raise ValueError("width must be a multiple of 2 x heads, encoder_width one of heads")
        return self


class EmbeddingTraining(Section):
    cuts: int = Field(6, ge=1)  # moments in the past that users are asked at; the newest is one horizon before the date
    every_days: float = Field(15.0, gt=0)  # between two cuts
    min_item_events: int = Field(3, ge=1)  # items with fewer events are known by their words alone
    min_word_items: int = Field(2, ge=1)  # words of fewer titles share hash buckets
    users: int = Field(50_000, ge=1)  # at most, a cut; chosen by their stable hash
    questions: int = Field(8, ge=1)  # asked of a user in an epoch at most, drawn at random
    epochs: int = Field(8, ge=1)  # at most: users held out decide
    patience: int = Field(4, ge=1)
    held_out: float = Field(0.1, gt=0, lt=1)  # share of users that judge an epoch
    batch_users: int = Field(32, ge=2)
    line_dropout: float = Field(0.3, ge=0, lt=1)  # lines of a view left out at random
    source_dropout: float = Field(0.4, ge=0, lt=1)  # whole sources left out at random
    contrastive: float = Field(1.0, ge=0)  # weight of InfoNCE
    autoregressive: float = Field(1.0, ge=0)  # weight of the answer's words
    temperature: float = Field(0.03, gt=0)
    false_negative_margin: float = Field(0.1, ge=0)
    learning_rate: float = Field(5e-4, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    seed: int = 0


class Neighbours(Section):
    """How many nearest users and items every user gets, per instruction; 0: none.

    Items only under instructions of the kind `next`: their answers are items, others have no place for them.
    """

    users: int = Field(0, ge=0, le=1000)
    items: int = Field(0, ge=0, le=1000)


class Embeddings(Section):
    sources: dict[InstructionId, EmbeddingSource] = Field(
        {
            "events": EmbeddingSource(kind="events"),
            "dislikes": EmbeddingSource(kind="dislikes", newest=16),
            "profile": EmbeddingSource(kind="profile"),
            "rhythm": EmbeddingSource(kind="rhythm"),
            "sessions": EmbeddingSource(kind="sessions", newest=32),
        },
        min_length=1,
        max_length=6,
    )
    instructions: dict[InstructionId, EmbeddingInstruction] = Field(min_length=1)
    horizon_days: float = Field(30.0, gt=0)  # an answer comes from the events within this time after a cut
    price: str = "price"  # the item attribute that bands are made of; an item without it has none
    dislike_at_most: float | None = None  # a value (a rating) up to this is a dislike; so is a negative weight
    session_gap_hours: float = Field(2.0, gt=0)  # a longer pause begins a new session
    model: EmbeddingModel = EmbeddingModel()
    training: EmbeddingTraining = EmbeddingTraining()
    neighbours: Neighbours = Neighbours()

    @model_validator(mode="after")
    def _taught(self) -> Embeddings:
        if not any(instruction.answer for instruction in self.instructions.values()):
            raise ValueError("at least one instruction needs an `answer`, or there is nothing to train on")
        if self.neighbours.items and not self.open_instructions:
            raise ValueError("neighbours.items needs an instruction whose answer is of the kind next")
        return self

    @property
    def open_instructions(self) -> tuple[str, ...]:
        """Those that items answer."""
        return tuple(name for name, one in self.instructions.items() if one.answer and one.answer.kind == "next")

    @property
    def neighbour_lists(self) -> tuple[str, ...]:
        """`<instruction>.users` and `<instruction>.items`: what is published of neighbours."""
        users = tuple(f"{name}.users" for name in self.instructions if self.neighbours.users)
        return users + tuple(f"{name}.items" for name in self.open_instructions if self.neighbours.items)
