"""Never more than the cap: what a request may cost at most is set aside before it is sent."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import Callable

from features.annotators.control import Control
from features.annotators.protocol import AnnotationReply, AnnotationRequest, Annotator, Around, Usage
from features.annotators.settings import PaceSettings
from features.errors import BudgetSpent, Transient


def nothing(_: AnnotationRequest) -> Usage:
    """A lost exchange is taken to have cost nothing."""
    return Usage()


@dataclasses.dataclass
class Ledger:
    """What is spent and set aside in this process; a model and its fallback share one, so that the cap holds for both together.

    Attributes:
        spent: what replies said they cost.
        lost: what exchanges without a reply may have cost; counts against the caps and is in no reply.
        reserved: set aside for what is in flight.
    """

    spent: Usage = dataclasses.field(default_factory=Usage)
    lost: Usage = dataclasses.field(default_factory=Usage)
    reserved: Usage = dataclasses.field(default_factory=Usage)
    flying: int = 0
    waiting: deque[tuple[asyncio.Future[None], Usage]] = dataclasses.field(default_factory=deque)


class Budgeted(Around):
    """Keeps spent + reserved within `max_cost` and `max_tokens`, of which each of `workers` processes has its share.

    A request whose ceiling does not fit waits, in order, while others are in flight: they mostly cost less than their ceilings.
    When nothing is in flight any more and it still does not fit, it ends in BudgetSpent and stays pending. Where ceilings are true
    ceilings, what is spent never exceeds a cap.

    A rejected or refused exchange costs nothing. One that broke off (a time-out, a broken connection) may be billed although
    nobody knows: `lost` says what is counted for it, once a request however often it was tried inside. Caps may be changed while
    the run goes on (control.yaml).

    Args:
        annotator: the one inside.
        settings: for `workers`.
        ceiling: the most a request may be billed for, `cost_usd` filled in.
        control: the caps that hold now, and a stop.
        lost: what a broken-off exchange is taken to have cost, at most the ceiling; by default nothing.
        ledger: the book to write into; by default one of its own.
    """

    def __init__(
        self,
        annotator: Annotator,
        settings: PaceSettings,
        ceiling: Callable[[AnnotationRequest], Usage],
        control: Control,
        lost: Callable[[AnnotationRequest], Usage] = nothing,
        ledger: Ledger | None = None,
    ) -> None:
        super().__init__(annotator)
        self.ledger = ledger or Ledger()
        self._workers, self._ceiling, self._control, self._lost = settings.workers, ceiling, control, lost

    @property
    def spent(self) -> Usage:
        """What the replies so far cost, everything in the ledger included."""
        return self.ledger.spent

    def open(self) -> None:
        self._control.open()
        super().open()

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
        """See `Annotator`. Raises BudgetSpent, with what was spent, the cap, and the remedy, once a cap is reached."""
        orders, book = self._control.orders(), self.ledger
        capped = orders.max_cost > 0 or orders.max_tokens > 0 or bool(book.waiting)
        ceiling = self._ceiling(request) if capped else Usage()
        if capped:
            await self._reserve(ceiling)
        else:
            book.flying += 1
        spent = lost = Usage()
        try:
            reply = await self.annotator.annotate(request)
            spent = reply.spent
            return reply
        except Transient as error:
            lost = Usage() if error.rejected else self._lost(request)
            raise
        finally:
            book.flying -= 1
            book.reserved = _minus(book.reserved, ceiling) if book.flying else Usage()
            book.spent += spent
            book.lost += lost
            self._settle()

    async def _reserve(self, ceiling: Usage) -> None:
        book = self.ledger
        if not book.waiting and self._fits(ceiling):
            book.reserved += ceiling
            book.flying += 1
            return
        if not book.waiting and not book.flying:
            raise self._over(ceiling)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        book.waiting.append((future, ceiling))
        try:
            await self._control.wait(future)
        except BaseException:
            if future.done() and not future.cancelled() and future.exception() is None:  # cancelled right after it got its turn
                book.flying -= 1
                book.reserved = _minus(book.reserved, ceiling)
            elif not future.done():
                future.cancel()
            self._settle()
            raise

    def _settle(self) -> None:
        """Gives those who wait their turn, in order, as far as it fits."""
        book = self.ledger
        while book.waiting:
            future, ceiling = book.waiting[0]
            if future.done():
                book.waiting.popleft()
            elif self._fits(ceiling):
                book.waiting.popleft()
                book.reserved += ceiling
                book.flying += 1
                future.set_result(None)
            elif not book.flying:
                book.waiting.popleft()
                future.set_exception(self._over(ceiling))
            else:
                return

    def _fits(self, ceiling: Usage) -> bool:
        orders, book = self._control.orders(), self.ledger
        would = book.spent + book.lost + book.reserved + ceiling
        return not (0 < orders.max_cost < would.cost_usd * self._workers or 0 < orders.max_tokens < _tokens(would) * self._workers)

    def _over(self, ceiling: Usage) -> BudgetSpent:
        orders, used = self._control.orders(), self.ledger.spent + self.ledger.lost
        share = f", of which this process has 1/{self._workers}" if self._workers > 1 else ""
        if 0 < orders.max_cost < (used + ceiling).cost_usd * self._workers:
            said = (
                f"{used.cost_usd:.4g} US dollars are spent and the next request may cost {ceiling.cost_usd:.4g}; "
                f"max_cost is {orders.max_cost:g}{share}: raise --max-cost"
            )
        else:
            said = (
                f"{_tokens(used):,} tokens are spent and the next request may take {_tokens(ceiling):,}; "
                f"max_tokens is {orders.max_tokens:,}{share}: raise --max-tokens"
            )
        return BudgetSpent(f"{said}; the next run goes on from here")


def _tokens(usage: Usage) -> int:
    return usage.input_tokens + usage.output_tokens


def _minus(usage: Usage, less: Usage) -> Usage:
    return Usage(*(max(0, getattr(usage, field.name) - getattr(less, field.name)) for field in dataclasses.fields(Usage)))
