"""What is registered, what a change of the definitions means for it, and how to apply that change.

The registered state lives in Feast's own registry, as tags of the packed view, so that every reader finds it where the views
are: one `attribute.NAME` tag for each attribute, one `retired.NAME` for each that was withdrawn (its signature stays taken),
and one `layout.N` for each layout of the packed column ever used (rows written under it must stay readable).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from features import storage
from features.attributes.definition import AttributeDefinition
from features.errors import InvalidInput, Transient
from features.workspace import Workspace

if TYPE_CHECKING:
    from feast import FeatureStore

PROJECT = "vidattr"
ENTITY = "video"
JOIN_KEY = "video_id"
WIDE_VIEW = "video_attributes"
PACKED_VIEW = "video_attributes_packed"
PACKED_COLUMN = "packed"
OFFLINE_FOLDER = "offline"
OFFLINE_BASE = "0-history.parquet"
"""The file that `features.serving.publish.compact_history` merges the others into; without rows before the first ones."""
RESERVED = frozenset({JOIN_KEY, PACKED_COLUMN, "event_timestamp", "created"})
NUMBER_TYPE = "Float32"
MARKER = "registered.json"
LOCK = ".register.lock"
MATERIALIZE_LOCK = ".materialize.lock"
"""Whoever rewrites files of the history holds it. Where both are held it is taken before LOCK: nobody waits in a circle."""
REDIS_PASSWORD = "VIDATTR_REDIS_PASSWORD"

Layout = tuple[tuple[str, str], ...]
"""(name, value signature) of each attribute in a packed row, in order."""


@dataclass(frozen=True)
class RegisteredAttribute:
    """What the registry knows of one attribute: `AttributeDefinition` reduced to what readers of numbers need."""

    name: str
    definition_hash: str
    value_signature: str
    title: str = ""
    owner: str = ""
    stage: str = "draft"
    serving_threshold: float = 0.5
    value_type: str = "boolean"
    labels: tuple[str, ...] = ()

    @classmethod
    def of(cls, definition: AttributeDefinition) -> RegisteredAttribute:
        """The part of a definition that is registered."""
        return cls(
            name=definition.name,
            definition_hash=definition.definition_hash,
            value_signature=definition.value_signature,
            title=definition.title,
            owner=definition.owner,
            stage=definition.stage,
            serving_threshold=definition.serving_threshold,
            value_type=definition.value_type,
            labels=definition.labels,
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> RegisteredAttribute:
        """The inverse of `to_json`. Raises ValueError, TypeError or KeyError on anything else."""
        document = json.loads(text)
        return cls(**{**document, "labels": tuple(document["labels"])})


@dataclass(frozen=True)
class Registration:
    """Everything registered.

    Attributes:
        attributes: live ones, in the order of the packed layout (by name).
        retired: value signatures of withdrawn ones, by name.
        layouts: every layout of the packed column ever used, oldest first, the present one included.
        column_types: Feast types of the wide view's columns; empty before the first registration.
    """

    attributes: tuple[RegisteredAttribute, ...] = ()
    retired: Mapping[str, str] = field(default_factory=dict)
    layouts: tuple[Layout, ...] = ()
    column_types: Mapping[str, str] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        """The present layout of the packed column."""
        return tuple((attribute.name, attribute.value_signature) for attribute in self.attributes)

    @property
    def by_name(self) -> dict[str, RegisteredAttribute]:
        return {attribute.name: attribute for attribute in self.attributes}

    @property
    def incomplete(self) -> tuple[str, ...]:
        """Attributes that the packed view knows and the wide view lacks: an interrupted registration."""
        return tuple(attribute.name for attribute in self.attributes if attribute.name not in self.column_types)

    @property
    def retyped(self) -> dict[str, str]:
        """Number columns of the wide view that somebody gave another type, by name."""
        types = {attribute.name: self.column_types.get(attribute.name, NUMBER_TYPE) for attribute in self.attributes}
        return {name: kind for name, kind in types.items() if kind != NUMBER_TYPE}

    def check_served(self) -> None:
        """Raises InvalidInput unless numbers can be written and read as they are meant."""
        if not self.attributes:
            raise InvalidInput("no attribute is registered: run `vidattr register` first")
        for name, kind in self.retyped.items():
            raise InvalidInput(_retyped_sentence(name, kind))
        if self.incomplete:
            raise InvalidInput(f"registration of {', '.join(self.incomplete)} was interrupted: run `vidattr register` again")


@dataclass(frozen=True)
class RegistrationPlan:
    """What registering would do.

    Attributes:
        added, changed, retired, unchanged: names of attributes.
        refused: sentences, each with its remedy; a plan with any is not applied.
        asked_again: those of `changed` whose definition_hash differs; the rest of `changed` asks nobody again.
        repaired: names whose columns an interrupted or foreign change left wrong, set right by applying.
    """

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    asked_again: tuple[str, ...] = ()
    repaired: tuple[str, ...] = ()

    @property
    def changes_anything(self) -> bool:
        return bool(self.added or self.changed or self.retired or self.repaired)

    def sentences(self) -> list[str]:
        """For a person, refusals first."""
        lines = [f"Refused: {reason}" for reason in self.refused]
        lines += [f"{name} is new: it will be asked about every video." for name in self.added]
        lines += [
            f"{name} changed: it will be asked again, and its present answers count as stale until then."
            if name in self.asked_again
            else f"{name} changed in words for people only: nothing is asked again."
            for name in self.changed
        ]
        lines += [f"{name} is no longer defined: it is withdrawn from the views, and reads say absent." for name in self.retired]
        lines += [f"{name}: its column in {WIDE_VIEW} is set right." for name in self.repaired]
        if self.unchanged:
            lines.append(f"Unchanged: {', '.join(self.unchanged)}.")
        return lines or ["Nothing is defined and nothing is registered."]


def columns_of(attribute: RegisteredAttribute) -> tuple[str, ...]:
    """Names of an attribute's columns in the wide view: the number, who said so, and a category's label."""
    names = (attribute.name, f"{attribute.name}_source")
    return (*names, f"{attribute.name}_label") if attribute.labels else names


def _new_version(name: str) -> str:
    stem, _, number = name.rpartition("_v")
    return f"{stem}_v{int(number) + 1}" if stem and number.isdigit() else f"{name}_v2"


def _retyped_sentence(name: str, kind: str) -> str:
    return (
        f"{WIDE_VIEW}.{name} was changed to {kind} in the feature store, but the numbers stored are {NUMBER_TYPE} and would be "
        f"misread: run `vidattr register` to set it right, and define {_new_version(name)} if a new kind of value is wanted"
    )


def plan(registered: Registration, definitions: Sequence[AttributeDefinition]) -> RegistrationPlan:
    """What registering `definitions` would do to what is registered. Reads nothing and changes nothing."""
    live = registered.by_name
    wanted: dict[str, RegisteredAttribute] = {}
    refused: list[str] = []
    columns: dict[str, str] = dict.fromkeys(RESERVED, "the system itself")
    for definition in sorted(definitions, key=lambda each: each.name):
        attribute = RegisteredAttribute.of(definition)
        if attribute.name in wanted:
            refused.append(f"{attribute.name} is defined twice: keep one of the files")
            continue
        wanted[attribute.name] = attribute
        for column in columns_of(attribute):
            if column in columns:
                refused.append(f"{attribute.name}: its column {column} is taken by {columns[column]}; choose another name")
            columns.setdefault(column, attribute.name)
        before = live[attribute.name].value_signature if attribute.name in live else registered.retired.get(attribute.name)
        if before not in (None, attribute.value_signature):
            state = "is stored" if attribute.name in live else "was stored before it was withdrawn"
            refused.append(
                f"{attribute.name}: what {state} is {before}, and {attribute.value_signature} would misread it; "
                f"keep {attribute.name} as it was and define the new one under a new name, {_new_version(attribute.name)}"
            )
    changed = tuple(name for name in wanted if name in live and wanted[name] != live[name])
    return RegistrationPlan(
        added=tuple(name for name in wanted if name not in live),
        changed=changed,
        retired=tuple(name for name in live if name not in wanted),
        unchanged=tuple(name for name in wanted if name in live and name not in changed),
        refused=tuple(refused),
        asked_again=tuple(name for name in changed if wanted[name].definition_hash != live[name].definition_hash),
        repaired=tuple(sorted(set(wanted) & set(live) & {*registered.incomplete, *registered.retyped})),
    )


def registered_attributes(store: FeatureStore) -> Registration:
    """The registered state, read past every cache. Raises InvalidInput when the tags are not ours or damaged."""
    views = {view.name: view for view in store.registry.list_feature_views(store.project, allow_cache=False)}
    if PACKED_VIEW not in views:
        return Registration()
    wide = views.get(WIDE_VIEW)
    tags: dict[str, str] = dict(views[PACKED_VIEW].tags)
    try:
        attributes = [RegisteredAttribute.from_json(text) for key, text in tags.items() if key.startswith("attribute.")]
        layouts = {
            int(key.removeprefix("layout.")): tuple((str(name), str(signature)) for name, signature in json.loads(text))
            for key, text in tags.items()
            if key.startswith("layout.")
        }
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidInput(
            f"the tags of {PACKED_VIEW} in the registry are not vidattr's ({error}): something else applied this view; "
            f"restore {store.repo_path}/registry.db from registry.last-good.db"
        ) from error
    return Registration(
        attributes=tuple(sorted(attributes, key=lambda attribute: attribute.name)),
        retired={key.removeprefix("retired."): text for key, text in tags.items() if key.startswith("retired.")},
        layouts=tuple(layouts[number] for number in sorted(layouts)),
        column_types={column.name: str(column.dtype) for column in wide.schema} if wide else {},
    )


def next_registration(registered: Registration, definitions: Sequence[AttributeDefinition]) -> Registration:
    """The state after registering `definitions`: nothing that rows already written depend on is forgotten."""
    attributes = tuple(sorted(map(RegisteredAttribute.of, definitions), key=lambda attribute: attribute.name))
    names = {attribute.name for attribute in attributes}
    withdrawn = {attribute.name: attribute.value_signature for attribute in registered.attributes}
    retired = {name: signature for name, signature in {**registered.retired, **withdrawn}.items() if name not in names}
    layout = tuple((attribute.name, attribute.value_signature) for attribute in attributes)
    layouts = (*(known for known in registered.layouts if known != layout), layout)
    return Registration(attributes, retired, layouts, registered.column_types)


def apply(
    store: FeatureStore,
    definitions: Sequence[AttributeDefinition],
    planned: RegistrationPlan,
    *,
    retire: bool = False,
    lock_timeout_s: float = 60.0,
    materialize_timeout_s: float = 60.0,
) -> Registration:
    """Carries out a plan, under locks that all processes of this workspace share, and returns the new state.

    A plan that changes nothing is carried out as well: it creates what the online store lacks, such as a lost file.

    Args:
        store: from `open_store`.
        definitions: those that `planned` was made from.
        planned: as shown to the user; what happens is what it says, or nothing.
        retire: the user has confirmed that attributes without a definition are withdrawn.
        lock_timeout_s: how long to wait for another registration.
        materialize_timeout_s: how long to wait for a materialisation, which rewrites the same files of the history.

    Raises:
        InvalidInput: the plan has refusals or unconfirmed withdrawals, or the registry changed since it was made.
        Transient: another registration, or a materialisation, holds its lock all the time.
    """
    from features.attributes import views

    folder = str(store.repo_path)
    with (
        exclusive(os.path.join(folder, MATERIALIZE_LOCK), materialize_timeout_s, "materialisation"),
        exclusive(os.path.join(folder, LOCK), lock_timeout_s, "registration"),
    ):
        check_registry_file(folder)
        registered = registered_attributes(store)
        now_planned = plan(registered, definitions)
        if now_planned.refused:
            raise InvalidInput("; ".join(now_planned.refused))
        if now_planned != planned:
            if not now_planned.changes_anything:
                return registered  # somebody else has just done the same
            raise InvalidInput("the registry has changed since this plan was made: run `vidattr register` again")
        if planned.retired and not retire:
            raise InvalidInput(
                f"{', '.join(planned.retired)}: registered, but no longer defined; "
                "pass --retire to withdraw, or restore the definition"
            )
        after = next_registration(registered, definitions)
        views.register(store, after)
        _use_write_ahead_log(store)
        applied = registered_attributes(store)
        if applied.layout != after.layout or applied.incomplete or applied.retyped:
            raise Transient(f"{folder}/registry.db does not hold what was just registered: run `vidattr register` again")
        _keep_last_good(folder, applied)
        return applied


def open_store(workspace: Workspace | str, online: str = "sqlite") -> FeatureStore:
    """The feature store of a workspace, its configuration written to WORKSPACE/feast/feature_store.yaml with absolute paths.

    It sets the process's time zone to UTC: Feast's sqlite store keeps local times, which do not exist for an hour every spring.

    Args:
        workspace: a local one.
        online: `sqlite`, or `redis://HOST:PORT[/DB]` (`rediss://` for TLS); a Redis password is taken from the environment
            variable VIDATTR_REDIS_PASSWORD and never written down.

    Raises:
        InvalidInput: the address makes no sense, the workspace is not local, or the registry file is damaged.
    """
    if isinstance(workspace, str):
        workspace = Workspace(workspace)
    folder = workspace.local_path("feast")
    check_registry_file(folder)
    content = _configuration(folder, online).encode()
    name = os.path.join(folder, "feature_store.yaml")
    if not storage.exists(name) or storage.read_bytes(name) != content:
        storage.write_bytes(name, content)
    os.environ["TZ"] = "UTC"
    time.tzset()
    from features.feast_api import FeatureStore

    store = FeatureStore(repo_path=folder)
    if not os.path.exists(os.path.join(folder, MARKER)):
        with exclusive(os.path.join(folder, LOCK), 60.0, "registration"):
            # Creates the tables, which Feast does on first use, and not safely in several processes.
            store.refresh_registry()  # type: ignore[no-untyped-call]
    return store


def open_existing(folder: str, configuration: Path) -> FeatureStore:
    """The store that a configuration file of the user's own describes, for plain Feast.

    Args:
        folder: absolute, WORKSPACE/feast.
        configuration: a feature_store.yaml.

    Raises InvalidInput when the registry in `folder` is damaged.
    """
    check_registry_file(folder)
    os.makedirs(folder, exist_ok=True)
    from features.feast_api import FeatureStore

    return FeatureStore(repo_path=str(configuration.parent), fs_yaml_file=configuration)


def _configuration(folder: str, online: str) -> str:
    """The text of feature_store.yaml: JSON, which is YAML, so that no path needs quoting by hand."""
    configuration = {
        "project": PROJECT,
        "provider": "local",
        "registry": {"registry_type": "sql", "path": f"sqlite:///{folder}/registry.db", "cache_ttl_seconds": 60},
        "online_store": _online_store(folder, online),
        "offline_store": {"type": "file"},
        "entity_key_serialization_version": 3,
    }
    return json.dumps(configuration, indent=1)


def _online_store(folder: str, online: str) -> dict[str, str]:
    if online == "sqlite":
        return {"type": "sqlite", "path": f"{folder}/online.db"}
    address = urlsplit(online)
    if address.password:
        raise InvalidInput(f"online store at {address.hostname}: put the password into {REDIS_PASSWORD}, not into the address")
    database = address.path.strip("/") or "0"
    try:
        port = address.port or 6379
    except ValueError:
        port = 0
    if address.scheme not in ("redis", "rediss") or not address.hostname or not port or not database.isdigit():
        raise InvalidInput(f"online store {online!r}: write `sqlite` or redis://HOST:PORT")
    parts = [f"{address.hostname}:{port}", f"db={database}", "socket_timeout=10", "socket_connect_timeout=3"]
    if address.scheme == "rediss":
        parts.append("ssl=true")
    if address.username:
        parts.append(f"username={address.username}")
    if os.environ.get(REDIS_PASSWORD):
        parts.append(f"password=${{{REDIS_PASSWORD}}}")
    return {"type": "redis", "connection_string": ",".join(parts)}


def check_registry_file(folder: str) -> None:
    """Refuses a registry that was torn: an empty or cut file would read as an empty registry and be created anew.

    Args:
        folder: WORKSPACE/feast.

    Raises:
        InvalidInput: the file does not hold what was last registered.
    """
    path, marker = os.path.join(folder, "registry.db"), os.path.join(folder, MARKER)
    size = os.path.getsize(path) if os.path.exists(path) else 0
    if not os.path.exists(marker) and size == 0:
        return
    try:
        found = _views_in(path) if size else frozenset()
    except (sqlite3.DatabaseError, ValueError) as error:
        raise InvalidInput(_torn_sentence(path, str(error))) from error
    if os.path.exists(marker) and not found >= {WIDE_VIEW, PACKED_VIEW}:
        raise InvalidInput(_torn_sentence(path, "the registered views are missing" if size else "the file is empty or gone"))


def _torn_sentence(path: str, what: str) -> str:
    folder = os.path.dirname(path)
    return (
        f"{path}: the registry is damaged ({what}); copy {folder}/registry.last-good.db over it, "
        f"or move {path} and {folder}/registered.json away and run `vidattr register` to begin anew"
    )


def _views_in(path: str) -> frozenset[str]:
    """Names of the feature views in a registry file. Raises sqlite3.DatabaseError or ValueError when it is not whole."""
    with open(path, "rb") as file:
        header = file.read(100)
    if len(header) < 100 or header[:16] != b"SQLite format 3\0":
        raise ValueError("not a database file")
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as connection:
        verdict = connection.execute("pragma quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise ValueError(str(verdict))
        if not connection.execute("select 1 from sqlite_master where name = 'feature_views'").fetchone():
            return frozenset()
        rows = connection.execute("select feature_view_name from feature_views where project_id = ?", (PROJECT,))
        return frozenset(str(name) for (name,) in rows)


def _keep_last_good(folder: str, registered: Registration) -> None:
    """A copy of the registry as it is now, and a note that there is one, against a torn file later."""
    partial = os.path.join(folder, ".partial-registry")
    with (
        contextlib.closing(sqlite3.connect(os.path.join(folder, "registry.db"))) as source,
        contextlib.closing(sqlite3.connect(partial)) as copy,
    ):
        source.backup(copy)
    os.replace(partial, os.path.join(folder, "registry.last-good.db"))
    note = {"attributes": [attribute.name for attribute in registered.attributes], "views": [WIDE_VIEW, PACKED_VIEW]}
    storage.write_bytes(os.path.join(folder, MARKER), json.dumps(note, indent=1).encode())


def _use_write_ahead_log(store: FeatureStore) -> None:
    """Lets readers go on while rows are written; the setting stays in the file."""
    if store.config.online_store.type == "sqlite":
        with contextlib.closing(sqlite3.connect(store.config.online_store.path, timeout=30)) as connection:
            connection.execute("pragma journal_mode=wal")


@contextlib.contextmanager
def exclusive(path: str, timeout_s: float, what: str, sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """Holds a lock file, which the kernel releases when the process dies. Raises Transient after `timeout_s`."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "a") as file:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Transient(f"another {what} has held {path} for {timeout_s:g} s: run again when it is done") from None
                sleep(0.05)
        yield
