"""Brings the feature store of a workspace in line with a feature repository."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from features.attributes import registry
from features.attributes.definition import AttributeDefinition
from features.errors import InvalidInput
from features.workspace import Workspace


def register(
    workspace: Workspace, definitions: Sequence[AttributeDefinition], online: str, retire: bool, dry_run: bool = False
) -> registry.RegistrationPlan:
    """Plans, and unless `dry_run` applies, what the definitions mean for the registry.

    Applying a plan that changes nothing still mends what is missing, such as a lost online table.

    Raises:
        InvalidInput: a change is refused, or attributes lost their definition and `retire` was not confirmed.
    """
    workspace.check_writable()
    store = registry.open_store(workspace, online)
    plan = registry.plan(registry.registered_attributes(store), definitions)
    if dry_run:
        return plan
    if plan.refused:
        raise InvalidInput("; ".join(plan.refused))
    registry.apply(store, definitions, plan, retire=retire)
    return plan


def plan_document(plan: registry.RegistrationPlan, dry_run: bool) -> dict[str, Any]:
    """A plan for `--json`."""
    return {**{name: list(value) for name, value in vars(plan).items()}, "sentences": plan.sentences(), "applied": not dry_run}
