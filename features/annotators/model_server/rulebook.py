"""Which scripted fault a request meets."""

from __future__ import annotations

import random
from collections.abc import Iterable
from email.utils import formatdate

from features.annotators.model_server.asked import Asked
from features.annotators.model_server.configuration import JOBS, Rule
from features.annotators.model_server.problems import Refused

_MESSAGES = {
    400: ("Invalid request.", None),
    401: ("Incorrect API key provided.", "invalid_api_key"),
    403: ("You are not allowed to use this model.", None),
    404: ("The model does not exist or you do not have access to it.", "model_not_found"),
    408: ("The request timed out.", None),
    410: ("The model has been retired.", "model_not_found"),
    413: ("Request payload size exceeds the limit.", None),
    429: ("Rate limit reached.", "rate_limit_exceeded"),
    500: ("The server had an error while processing your request.", None),
    503: ("The model is overloaded. Please try again later.", None),
}


class Rulebook:
    """Rules with the number of times that each is still to be used.

    Args:
        rules: the first that matches decides.
        random_numbers: of rules with a share.
    """

    def __init__(self, rules: Iterable[Rule], random_numbers: random.Random) -> None:
        self._random = random_numbers
        self.replace(rules)

    def replace(self, rules: Iterable[Rule]) -> None:
        """Other rules in place of these, or none."""
        self._rules = list(rules)
        self._used = [0] * len(self._rules)

    def add(self, rules: Iterable[Rule]) -> None:
        """More rules, after these."""
        more = list(rules)
        self._rules += more
        self._used += [0] * len(more)

    def of_request(self, asked: Asked, number: int, batch: bool) -> Rule | None:
        """The rule that the `number`-th request meets, which counts as used."""
        for place, rule in enumerate(self._rules):
            if rule.do not in JOBS and self._left(place) and _meets(rule, asked, number, batch) and self._chosen(rule):
                self._used[place] += 1
                return rule
        return None

    def of_job(self, protocol: str, model: str, text: str) -> Rule | None:
        """The rule that a batch job meets, which counts as used."""
        for place, rule in enumerate(self._rules):
            fits = rule.do in JOBS and rule.protocol in ("", protocol) and rule.model in ("", model) and rule.contains in text
            if fits and self._left(place):
                self._used[place] += 1
                return rule
        return None

    def _left(self, place: int) -> bool:
        return not self._rules[place].times or self._used[place] < self._rules[place].times

    def _chosen(self, rule: Rule) -> bool:
        return rule.share >= 1 or self._random.random() < rule.share


def _meets(rule: Rule, asked: Asked, number: int, batch: bool) -> bool:
    return (
        rule.protocol in ("", asked.protocol)
        and rule.model in ("", asked.model)
        and (not rule.nth or rule.nth == number)
        and number > rule.after
        and (not rule.turn or (rule.turn == "repair") is asked.is_repair)
        and (not rule.where or (rule.where == "batch") is batch)
        and (not rule.contains or asked.holds(rule.contains))
    )


def refusal(rule: Rule, protocol: str, now: float) -> Refused:
    """What a `status` rule answers.

    Args:
        rule: the rule.
        protocol: whose words.
        now: seconds since 1970, for a date.
    """
    message, code = _MESSAGES.get(rule.status, ("Scripted fault.", None))
    headers, details = dict(rule.headers), []
    if rule.retry_after_s >= 0:
        when = formatdate(now + rule.retry_after_s, usegmt=True) if rule.as_date else f"{rule.retry_after_s:g}"
        headers.setdefault("Retry-After", when)
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{rule.retry_after_s:g}s"})
    return Refused(rule.status, rule.message or message, code, details=details, headers=headers)
