"""What requests and answers look like, for reading them and for the OpenAPI schema."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(min_length=1)]
Id = Annotated[str, Field(min_length=1, max_length=512)]
AdapterName = Annotated[str, Field(min_length=1, max_length=64, examples=["bbb"])]


class Body(BaseModel):
    """A body whose every key is known."""

    model_config = ConfigDict(extra="forbid")


class OverridesBody(Body):
    """Changes of the store for this request alone."""

    drop: list[Id] = Field(default=[], max_length=256, description="Ids that are not retrieved.")
    relabel: dict[Id, Text] = Field(default={}, max_length=256, description="Other labels, by id.")


class PredictBody(Body):
    """Inputs for an adapter."""

    adapter: AdapterName
    inputs: list[Text] = Field(min_length=1, max_length=4096, examples=[["CCO"]])
    neighbours: bool = Field(default=True, description="Whether to tell what was retrieved.")
    attention: bool = Field(default=False, description="Whether to tell how much each head looked at each exemplar.")
    pictures: bool = Field(default=False, description="Whether to draw molecules, as data: addresses of SVG pictures.")
    overrides: OverridesBody = OverridesBody()


class CompareBody(Body):
    """An input for an adapter, for the base model as it is, and for retrieved in-context learning."""

    adapter: AdapterName
    input: Text
    overrides: OverridesBody = OverridesBody()


class RagBody(Body):
    """A question and passages, for the base model of an adapter."""

    adapter: AdapterName
    question: Text
    passages: list[Text] = Field(min_length=1, max_length=12)
    max_tokens: int = Field(default=32, ge=1, le=128)


class PathBody(Body):
    """Where an adapter lies."""

    path: Text = Field(description="A folder below that of --adapter-root.")


class ExemplarBody(Body):
    """An exemplar to add."""

    text: Text
    label: str = Field(default="", description="Its label or answer; none for a passage.")
    id: str = Field(default="", max_length=512, description="Its name; the content gives it one if empty.")


class ExemplarsBody(Body):
    """Exemplars to add to a store."""

    exemplars: list[ExemplarBody] = Field(min_length=1, max_length=4096)
    save: bool = Field(default=False, description="Whether the adapter's folder is written anew.")


class LabelsBody(Body):
    """Other labels for exemplars of a store."""

    labels: dict[Id, Text] = Field(min_length=1, max_length=4096, description="The new labels, by id.")
    save: bool = Field(default=False, description="Whether the adapter's folder is written anew.")


class OpenAIBody(BaseModel):
    """What both of OpenAI's requests have. Keys that we do not know are passed over, as OpenAI's servers do."""

    model: AdapterName
    stream: bool = False
    n: Literal[1] = 1
    max_tokens: int | None = Field(default=None, ge=1, le=4096)
    temperature: float | None = Field(default=None, ge=0, le=2, description="Answers are not sampled: it does nothing.")


class CompletionBody(OpenAIBody):
    """A request of OpenAI's completions: every prompt is an input."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=4096)]


class Part(BaseModel):
    """A part of a message; only text can be read."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A message; the last one of the user is the input."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None


class ChatBody(OpenAIBody):
    """A request of OpenAI's chat completions."""

    messages: list[Message] = Field(min_length=1, max_length=1024)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=4096)


# ---- answers ----------------------------------------------------------------------------------------------


class Problem(BaseModel):
    """What was wrong, in words."""

    message: str
    type: str
    problem: str
    got: str | None = None
    expected: str | None = None
    fix: str | None = None


class ProblemBody(BaseModel):
    """The answer to a request that is refused."""

    error: Problem


class Neighbour(BaseModel):
    """A retrieved exemplar."""

    id: str
    text: str
    label: str
    similarity: float
    picture: str | None = None


class Answer(BaseModel):
    """The answer to one input."""

    label: str | None = None
    answer: str | None = None
    probabilities: dict[str, float] | None = None
    neighbours: list[Neighbour] | None = None
    attention: list[list[float]] | None = Field(default=None, description="Heads by exemplars, in the order of these.")
    picture: str | None = None
    tokens: int


class PredictAnswer(BaseModel):
    """The answers to a request, in the order of its inputs."""

    adapter: str
    version: int
    answers: list[Answer]
    milliseconds: float


class Way(BaseModel):
    """One way to answer an input."""

    way: str
    method: str
    label: str | None = None
    answer: str | None = None
    probabilities: dict[str, float] | None = None
    tokens: int
    milliseconds: float


class CompareAnswer(BaseModel):
    """The same input, answered in several ways."""

    adapter: str
    ways: list[Way]


class RagCase(BaseModel):
    """What becomes of the answer with some of the passages."""

    left_out: int | None = None
    passages: int
    answer: str
    probability: float | None = Field(
        default=None, description="Of the answer that all passages give: the mean of its tokens, geometric."
    )


class RagAnswer(BaseModel):
    """The answer with all passages, with none, and without each."""

    adapter: str
    question: str
    cases: list[RagCase]
    milliseconds: float


class AdapterFacts(BaseModel):
    """What may be known of an adapter."""

    name: str
    version: int
    method: str
    task: str
    kind: str
    domain: str
    labels: list[str]
    base_model: str
    reads_model: bool
    retrieves: bool
    k: int
    exemplars: int
    grows_without_training: bool


class AdapterList(BaseModel):
    """The adapters that a key may use."""

    adapters: list[AdapterFacts]


class Stored(BaseModel):
    """An exemplar of a store."""

    id: str
    text: str
    label: str


class StoredList(BaseModel):
    """A part of a store."""

    exemplars: list[Stored]
    total: int


_STATUSES = (400, 401, 403, 404, 405, 408, 409, 413, 415, 421, 422, 429, 500, 502, 503, 504)
REFUSALS: dict[int | str, dict[str, Any]] = {status: {"model": ProblemBody} for status in _STATUSES}
"""What refusals look like, for the schema."""
