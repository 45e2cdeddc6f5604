"""A model server as an annotator, with all that surrounds it: from a question about a video to answers that can be believed.

From the outside in: evidence, samples, packing or one question after the other, repair, circuit, budget, retry, pace, the model.
What belongs to the place and not to the model (the answers store, batch jobs, a fallback) is put around it by the caller.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field

from features.annotators.budget import Budgeted, Ledger
from features.annotators.circuit import Circuit
from features.annotators.control import Control
from features.annotators.evidenced import Evidenced
from features.annotators.exchange import ModelClient
from features.annotators.model import ModelAnnotator
from features.annotators.pace import Paced
from features.annotators.packing import Packed, Separately
from features.annotators.prompt import PromptWriter
from features.annotators.prompt_examples import Rated
from features.annotators.protocol import AnnotationRequest, Annotator, AnnotatorIdentity, Usage
from features.annotators.repair import Repaired
from features.annotators.retry import Retried
from features.annotators.samples import Samples
from features.annotators.settings import ModelSettings, PaceSettings, PromptSettings
from features.annotators.spend import Price, Prices
from features.attributes.definition import AttributeDefinition
from features.errors import InvalidInput

MODEL_KINDS = ("gemini", "openai")
"""Annotators that send prompts to a model server."""
DEFAULT_MODEL = {"gemini": "gemini-2.5-flash", "openai": ""}
"""By kind; an OpenAI-compatible server has none that everybody serves."""


@dataclass(frozen=True)
class ModelAsked:
    """A model and how it is asked: what decides its prompts, their price, and whose answers come back.

    Args:
        kind: one of `MODEL_KINDS`.
        model: which model, where.
        prompts: what is asked and shown.
        examples: rated videos for the prefix.
        definitions: all that the run asks.
        prices: a price table of the user's own, merged over the built-in one; empty: none.

    Attributes:
        writer: writes the prompts.
        price: of the model, None where there is none.

    Raises:
        InvalidInput: an unknown kind, no model, evidence that leaves nothing to show, a price table that cannot be read.
    """

    kind: str
    model: ModelSettings
    prompts: PromptSettings = field(default_factory=PromptSettings)
    examples: tuple[Rated, ...] = ()
    definitions: tuple[AttributeDefinition, ...] = ()
    prices: str = ""
    writer: PromptWriter = field(init=False, compare=False, repr=False)
    price: Price | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if self.kind not in MODEL_KINDS:
            raise InvalidInput(f"{self.kind!r} sends no prompt: choose one of {', '.join(MODEL_KINDS)}")
        name = self.model.name or DEFAULT_MODEL[self.kind]
        if not name:
            raise InvalidInput(f"the {self.kind} annotator needs a model: pass --model NAME, as the server knows it")
        model = dataclasses.replace(self.model, name=name)
        writer = PromptWriter(self.prompts, model, self.examples, self.definitions)
        price = Prices.load(self.prices).of(name)
        for attribute, value in (("model", model), ("writer", writer), ("price", price)):
            object.__setattr__(self, attribute, value)

    @property
    def identity(self) -> AnnotatorIdentity:
        """Whose answers these are. Where a model is (its address, its key) does not count, what is sent to it does."""
        parameters = self.writer.parameters
        if self.prompts.first_token:
            parameters = json.dumps({**json.loads(parameters), "first_token": True}, sort_keys=True)
        own = self.writer.parameters_by_definition(self.definitions)
        return AnnotatorIdentity("llm", self.model.name, self.writer.version, parameters, own)

    def cost(self, usage: Usage, batch: bool = False) -> float:
        """US dollars; 0 for a model without a price."""
        return self.price.cost(usage, batch) if self.price else 0.0

    def ceiling(self, request: AnnotationRequest) -> Usage:
        """The most that one exchange may be billed for."""
        most = self.writer.ceiling(request)
        return dataclasses.replace(most, cost_usd=self.cost(most))

    def lost(self, request: AnnotationRequest) -> Usage:
        """What an exchange that broke off is taken to have cost: its prompt, and no reply."""
        prompt = dataclasses.replace(self.writer.estimate(request), output_tokens=0)
        return dataclasses.replace(prompt, cost_usd=self.cost(prompt))

    def check_caps(self, pace: PaceSettings) -> None:
        """Raises InvalidInput for a cap on the cost of a model without a price, which would never be reached."""
        if pace.max_cost and self.price is None:
            raise InvalidInput(f"max_cost is {pace.max_cost:g}, but there is {Prices.load(self.prices).why_none(self.model.name)}")


def open_client(kind: str, model: ModelSettings) -> ModelClient:
    """The client of a kind of model server, closed as yet; its libraries are imported here."""
    if kind == "gemini":
        from features.annotators.gemini import GeminiClient

        return GeminiClient(model)
    from features.annotators.openai_compatible import OpenAIClient

    return OpenAIClient(model)


def asking(asked: ModelAsked, pace: PaceSettings, control: Control, ledger: Ledger | None = None) -> Annotator:
    """The model with all that surrounds it.

    Args:
        asked: which model, and how it is asked.
        pace: how fast and how much.
        control: what holds while the run goes on; one a process.
        ledger: the book of what is spent, shared by a model and its fallback.

    Raises:
        InvalidInput: a cap on the cost of a model without a price.
    """
    asked.check_caps(pace)
    writer, prompts = asked.writer, asked.prompts
    client = open_client(asked.kind, asked.model)
    one: Annotator = ModelAnnotator(client, writer, asked.identity, asked.cost, by_first_token=prompts.first_token)
    paced = Paced(one, pace, writer.estimate, control, start=min(pace.in_flight, 64))
    book = ledger or Ledger()

    def lost(request: AnnotationRequest) -> None:
        book.lost += asked.lost(request)

    retried = Retried(paced, pace.attempts, pace.longest_wait_s, control, lost=lost)
    budgeted = Budgeted(retried, pace, asked.ceiling, control, asked.lost, book)
    repaired = Repaired(Circuit(budgeted, pace.outage_patience_s, control))
    each = prompts.ask == "each"
    whole: Annotator = Separately(repaired) if each else Packed(repaired, prompts.videos_per_request)
    if prompts.samples > 1:
        whole = Samples(whole, prompts.samples)
    return Evidenced(whole, writer.unseen)


def plugged_in(annotator: Annotator, pace: PaceSettings, control: Control, ledger: Ledger | None = None) -> Annotator:
    """Somebody else's annotator with pace, retries, a circuit and a budget.

    What it will cost nobody knows before, so a cap is passed by what is in flight when it is reached.
    """

    def one(_: AnnotationRequest) -> Usage:
        return Usage(requests=1)

    paced = Paced(Budgeted(annotator, pace, one, control, ledger=ledger), pace, one, control, start=min(pace.in_flight, 64))
    retried = Retried(paced, pace.attempts, pace.longest_wait_s, control)
    return Circuit(retried, pace.outage_patience_s, control)
