"""The model behind the server: from an accepted request to a reply with its bill, whatever the protocol and the way it came."""

from __future__ import annotations

import random
from dataclasses import dataclass

from features.annotators.model_server import gemini_content, openai_chat
from features.annotators.model_server.asked import Asked
from features.annotators.model_server.configuration import CARRIAGE, Rule, ServerConfig
from features.annotators.model_server.counting import count, cut
from features.annotators.model_server.faults import ended, tampered
from features.annotators.model_server.ledger import Ledger
from features.annotators.model_server.prefixes import PrefixCache
from features.annotators.model_server.problems import Refused
from features.annotators.model_server.questions import Judged
from features.annotators.model_server.rulebook import Rulebook, refusal
from features.annotators.model_server.said import Written, with_odds
from features.annotators.model_server.slots import lognormal


@dataclass
class Reply:
    """A reply in its provider's shape, with the fault of the way back that awaits it, if any."""

    document: dict[str, object]
    text: str
    rule: Rule | None


class Model:
    """Answers requests and keeps the books about them.

    Args:
        config: of the server.
        ledger: where it is counted.
        rules: scripted faults.
    """

    def __init__(self, config: ServerConfig, ledger: Ledger, rules: Rulebook) -> None:
        self.config, self.ledger, self.rules = config, ledger, rules
        self.cache = PrefixCache(config.cache_block_bytes, config.cache_blocks, config.cache_minimum_tokens)

    def met(self, asked: Asked, batch: bool = False) -> Rule | None:
        """Counts a request, and says which fault it meets.

        Raises:
            Refused: it is longer than the context.
        """
        self.ledger.generations += 1
        if asked.input_tokens > self.config.context_tokens:
            most, given = self.config.context_tokens, asked.input_tokens
            if asked.protocol == "gemini":
                raise Refused(400, f"The input token count ({given}) exceeds the maximum number of tokens allowed ({most}).")
            raise Refused(
                400,
                f"This model's maximum context length is {most} tokens. However, your messages resulted in {given} tokens.",
                "context_length_exceeded",
                "messages",
            )
        rule = self.rules.of_request(asked, self.ledger.generations, batch)
        if rule is not None:
            self.ledger.faults[rule.do] += 1
        return rule

    def reply(self, asked: Asked, rule: Rule | None, now: float, batch: bool = False) -> Reply:
        """What is answered, counted as paid.

        Args:
            asked: the request.
            rule: the fault that it meets.
            now: seconds since 1970.
            batch: it is an item of a batch job.

        Raises:
            Refused: by a `status` rule.
        """
        if rule is not None and rule.do == "status":
            raise refusal(rule, asked.protocol, now)
        judged = self.config.judge(asked, self.config.questions)
        said = judged if rule is None else tampered(judged, asked, rule)
        written = self._written(said, asked)
        if rule is not None:
            written = ended(written, asked, rule)
        if written.finish == "prompt_blocked":
            written.thinking_tokens = 0
        if asked.top_logprobs is not None:
            whole = said if said.text else Judged("")
            written.tokens = with_odds(whole, written.text, asked.top_logprobs)
        self.ledger.paid(asked, judged, written, batch)
        shaped = (gemini_content if asked.protocol == "gemini" else openai_chat).write(asked, written, self.ledger.generations, now)
        return Reply(shaped, written.text, rule if rule is not None and rule.do in CARRIAGE else None)

    def _written(self, judged: Judged, asked: Asked) -> Written:
        written = Written(judged.text, input_tokens=asked.input_tokens, cached_tokens=self.cache.cached(asked))
        written.output_tokens, written.thinking_tokens = count(judged.text), asked.thinking_tokens
        most = asked.max_output_tokens - asked.thinking_tokens
        if written.output_tokens > most:
            written.text, written.finish = "".join(cut(judged.text)[: max(most, 0)]), "length"
            written.output_tokens = max(most, 0)
            written.thinking_tokens = min(asked.thinking_tokens, asked.max_output_tokens)
        return written


def latencies(config: ServerConfig, count: int) -> list[float]:
    """The times in a slot, in seconds, of the first `count` requests after a start or a reset, in the order in which they got one.

    They follow from `seed`, `latency_s` and `sigma` alone, so that the shortest time in which a scheduler could have served them
    can be computed without the server.
    """
    random_numbers = seeded(config)
    return [lognormal(random_numbers, config.latency_s, config.sigma) for _ in range(count)]


def seeded(config: ServerConfig) -> random.Random:
    """The server's random numbers."""
    return random.Random(config.seed)
