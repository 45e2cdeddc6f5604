"""What tokens cost, and what a run is going to."""

from __future__ import annotations

import datetime
import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, get_args

import yaml
from scipy.special import stdtrit

from features import storage
from features.annotators.protocol import Usage
from features.annotators.tokens import Family, family_of
from features.errors import InvalidInput, Permanent

MILLION = 1_000_000
CONFIDENCE = 0.90
ENOUGH = 20
"""Earlier exchanges from which the estimates of a model are corrected."""

EXAMPLE = """\
# prices.yaml: your own prices, US dollars per million tokens; they win over the built-in ones.
taken: 2026-11-25
models:
  my-model: {input: 0.20, cached_input: 0.05, output: 0.80, batch: 0.5}
"""
_NUMBERS = ("input", "cached_input", "output", "batch")
_FIELDS = (*_NUMBERS, "pictures", "source", "note", "then")
_VERSION = re.compile(r"([-@:](\d[\d.-]*|preview|exp|experimental|latest|stable|v\d+))+")
_FOLDERS = re.compile(r".*/")


@dataclass(frozen=True)
class Price:
    """What one model costs, US dollars per million tokens.

    Attributes:
        model: the name in the table.
        input: of tokens that are not cached.
        cached_input: of those read from the provider's prefix cache.
        output: hidden reasoning included.
        batch: what a batch job costs of the whole, 0 to 1.
        taken: the date when the price was looked up, ISO; empty: not given.
        source: where.
        pictures: how its pictures are counted in tokens.
        note: what the price leaves out.
    """

    model: str
    input: float
    cached_input: float
    output: float
    batch: float = 1.0
    taken: str = ""
    source: str = ""
    pictures: Family = "plain"
    note: str = ""

    def cost(self, usage: Usage, batch: bool = False) -> float:
        """US dollars for these tokens.

        >>> Price("m", input=1.0, cached_input=0.1, output=4.0, batch=0.5).cost(Usage(1, 1_000_000, 500_000, 250_000))
        1.55
        """
        fresh = usage.input_tokens - usage.cached_input_tokens
        dollars = (fresh * self.input + usage.cached_input_tokens * self.cached_input + usage.output_tokens * self.output) / MILLION
        return dollars * self.batch if batch else dollars


@dataclass(frozen=True)
class Prices:
    """A price table.

    Attributes:
        models: by name.
        taken: the date of the built-in table, ISO.
    """

    models: dict[str, Price] = field(default_factory=dict)
    taken: str = ""

    @classmethod
    def load(cls, path: str = "", today: datetime.date | None = None) -> Prices:
        """The built-in table with the user's own merged over it, model by model and field by field.

        Args:
            path: a YAML file of the same form, local or gs://; empty: none. See `EXAMPLE`.
            today: decides which of the prices with a date hold; by default the date now (UTC).

        Raises:
            InvalidInput: naming file, model, key and remedy.
        """
        today = today or datetime.datetime.now(datetime.UTC).date()
        name = "prices.yaml"
        built_in = _read(resources.files(__package__).joinpath(name).read_bytes(), name, {}, today)
        if not path:
            return built_in
        try:
            content = storage.read_bytes(path)
        except (OSError, Permanent) as error:
            raise InvalidInput(f"{path}: the prices cannot be read ({getattr(error, 'strerror', '') or error})") from error
        own = _read(content, path, built_in.models, today)
        return Prices({**built_in.models, **own.models}, built_in.taken)

    def of(self, model: str) -> Price | None:
        """The price of a model by its name as the server knows it, or None.

        An exact match wins; else the longest name that only a version follows (`gemini-2.5-flash-001`, `gpt-4o-mini-2024-07-18`,
        `gemini-3-flash-preview`): gpt-5-pro is not priced as gpt-5. Folders before the name (`models/`, `openai/`) do not count.
        """
        name = model if model in self.models else _FOLDERS.sub("", model)
        if name in self.models:
            return self.models[name]
        known = [known for known in self.models if name.startswith(known) and _VERSION.fullmatch(name[len(known) :])]
        return self.models[max(known, key=len)] if known else None

    def why_none(self, model: str) -> str:
        """A sentence about a model without a price: its cost counts as 0."""
        near = difflib.get_close_matches(_FOLDERS.sub("", model), self.models, 1)
        hint = f" (the nearest known name is {near[0]})" if near else ""
        return f"no price for {model!r}{hint}: cost counts as 0; give one with --prices FILE, or cap tokens with --max-tokens"


def _read(content: bytes, path: str, known: dict[str, Price], today: datetime.date) -> Prices:
    try:
        document = yaml.safe_load(content) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{path}: is no YAML ({' '.join(str(error).split())[:200]})") from error
    _check_keys(path, "the file", document, ("taken", "sources", "notes", "models"))
    sources, notes, taken = document.get("sources") or {}, document.get("notes") or {}, str(document.get("taken") or "")
    models = document.get("models") or {}
    for part, value in (("sources", sources), ("notes", notes), ("models", models)):
        if not isinstance(value, dict):
            raise InvalidInput(f"{path}: {part} is {value!r}; write `name: ...` lines below it")
    found = {}
    for model, row in models.items():
        row, place = _current(path, model, row, today), f"model {model!r}"
        base = known.get(str(model))
        values: dict[str, Any] = {name: getattr(base, name) for name in (*_NUMBERS, "pictures")} if base else {}
        for name in _NUMBERS:
            if name in row:
                values[name] = _dollars(path, place, name, row[name])
        for name in ("input", "output"):
            if name not in values:
                raise InvalidInput(f"{path}: {place} has no {name}; write it in US dollars per million tokens, 0 for nothing")
        if values.setdefault("batch", 1.0) > 1:
            raise InvalidInput(f"{path}: {place}: batch is {values['batch']!r}; write what a batch job costs of the whole, 0 to 1")
        if "cached_input" not in row and not (base and "input" not in row):
            values["cached_input"] = values["input"]
        values["pictures"] = row.get("pictures", values.get("pictures", family_of(str(model))))
        if values["pictures"] not in get_args(Family):
            raise InvalidInput(f"{path}: {place}: pictures is {values['pictures']!r}; choose one of {', '.join(get_args(Family))}")
        source, note = str(row.get("source", "")), str(row.get("note", ""))
        found[str(model)] = Price(
            str(model), taken=taken, source=str(sources.get(source, source or path)), note=str(notes.get(note, note)), **values
        )
    return Prices(found, taken)


def _current(path: str, model: object, row: object, today: datetime.date) -> dict[str, Any]:
    """A model's row as it holds today."""
    place = f"model {model!r}"
    fields = _check_keys(path, place, row, _FIELDS)
    if "then" not in fields:
        return fields
    then = dict(_check_keys(path, f"{place}: then", fields.pop("then"), ("from", *_NUMBERS)))
    begins = then.pop("from", None)
    if not isinstance(begins, datetime.date):
        raise InvalidInput(f"{path}: {place}: then.from is {begins!r}; write a date such as 2027-01-01")
    return {**fields, **then} if today >= begins else fields


def _check_keys(path: str, place: str, value: object, known: Sequence[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{path}: {place} is {value!r}; write keys and values, such as `input: 0.20`")
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise InvalidInput(f"{path}: {place}: unknown key {key!r}; {hint}")
    return dict(value)


def _dollars(path: str, place: str, name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InvalidInput(f"{path}: {place}: {name} is {value!r}; write a number from 0 up, US dollars per million tokens")
    return float(value)


@dataclass(frozen=True)
class Calibration:
    """How a model's exchanges turned out against their estimates.

    Attributes:
        ratio_in, ratio_out: actual over estimated tokens, all exchanges together.
        n: exchanges.
        ratio_cached: the same of cached input tokens; None: as input.
        cached_share: cached over all actual input tokens, for where no cache was expected.
    """

    ratio_in: float
    ratio_out: float
    n: int
    ratio_cached: float | None = None
    cached_share: float = 0.0


def calibrate(exchanges: Sequence[tuple[Usage, Usage]]) -> Calibration | None:
    """From (estimated, actual) of each earlier exchange; None for fewer than ENOUGH, or estimates of nothing."""
    if len(exchanges) < ENOUGH:
        return None
    estimated = sum((one for one, _ in exchanges), Usage())
    actual = sum((other for _, other in exchanges), Usage())
    if not estimated.input_tokens or not estimated.output_tokens:
        return None
    return Calibration(
        actual.input_tokens / estimated.input_tokens,
        actual.output_tokens / estimated.output_tokens,
        len(exchanges),
        actual.cached_input_tokens / estimated.cached_input_tokens if estimated.cached_input_tokens else None,
        actual.cached_input_tokens / actual.input_tokens if actual.input_tokens else 0.0,
    )


@dataclass(frozen=True)
class Forecast:
    """What a run is going to take.

    Attributes:
        requests, input_tokens, cached_input_tokens, output_tokens: expected.
        cost_usd: expected, US dollars.
        low_usd, high_usd: the interval that holds the cost in 90 % of samples like this one.
        basis: a sentence about where it comes from.
    """

    requests: int
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    cost_usd: float
    low_usd: float
    high_usd: float
    basis: str


def forecast(
    sample: Sequence[Usage], total: int, price: Price | None, batch: bool = False, history: Calibration | None = None
) -> Forecast:
    """From estimates of some videos to all of them.

    The mean of the sample times `total`, with Student's t and the correction for a finite population (Cochran, Sampling
    Techniques, 3rd edition, section 2.8): half the interval is t * total * s * sqrt((1 - n / total) / n). It is about which videos
    are in the sample; what the estimates are worth is said by `history`, which corrects them where there is enough of it.

    Args:
        sample: the estimate of each video in a random sample, all its requests together.
        total: videos in the run, the sample among them.
        price: None: the cost is 0.
        batch: asked by batch jobs.
        history: used where it rests on at least ENOUGH exchanges.

    Raises:
        InvalidInput: nothing was sampled although there is something to ask.
    """
    n, total = len(sample), max(total, len(sample))
    if not n:
        if total:
            raise InvalidInput(f"no video of {total:,} could be estimated; run without --dry-run on a few, or check the features")
        return Forecast(0, 0, 0, 0, 0.0, 0.0, 0.0, "nothing to ask")
    corrected = history if history is not None and history.n >= ENOUGH else None
    videos = [_corrected(usage, corrected) for usage in sample]
    costs = [price.cost(usage, batch) if price else 0.0 for usage in videos]
    mean = math.fsum(costs) / n
    half = 0.0
    if 1 < n < total:
        variance = math.fsum((cost - mean) ** 2 for cost in costs) / (n - 1)
        half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * total * math.sqrt(variance * (1 - n / total) / n)
    scale = total / n
    whole = sum(videos, Usage())
    basis = f"estimates of {n:,} of {total:,} videos" if n < total else f"estimates of all {total:,} videos"
    if corrected is not None:
        basis += f", corrected by {corrected.n:,} earlier exchanges (x{corrected.ratio_in:.2f} in, x{corrected.ratio_out:.2f} out)"
    if price is None:
        basis += "; no price is known: tokens only"
    else:
        basis += f"; prices of {price.taken or 'unknown date'}{', batch' * batch}"
    return Forecast(
        requests=round(scale * whole.requests),
        input_tokens=round(scale * whole.input_tokens),
        cached_input_tokens=round(scale * whole.cached_input_tokens),
        output_tokens=round(scale * whole.output_tokens),
        cost_usd=total * mean,
        low_usd=max(math.fsum(costs), total * mean - half),
        high_usd=total * mean + half,
        basis=basis,
    )


def _corrected(usage: Usage, history: Calibration | None) -> Usage:
    if history is None:
        return usage
    tokens = round(usage.input_tokens * history.ratio_in)
    if usage.cached_input_tokens:
        ratio_cached = history.ratio_in if history.ratio_cached is None else history.ratio_cached
        cached = min(tokens, round(usage.cached_input_tokens * ratio_cached))
    else:
        cached = round(tokens * history.cached_share)
    return Usage(usage.requests, tokens, cached, round(usage.output_tokens * history.ratio_out))
