"""Annotators of other people's packages, found by entry points.

A package names a factory in its metadata, and `vidattr annotate --annotator NAME` asks it:

    [project.entry-points."vidattr.annotators"]
    loud = "loudness.annotator:build"

`features.annotators.contract` is the test that such a package runs on itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

from features.annotators.protocol import Annotator
from features.annotators.secrets import redacted
from features.annotators.settings import ModelSettings, PromptSettings
from features.errors import InvalidInput, VidattrError

GROUP = "vidattr.annotators"
WANTED = ("identity", "open", "annotate", "close")
"""What an annotator has; see `features.annotators.protocol.Annotator`."""


class Factory(Protocol):
    """Makes an annotator, closed and picklable.

    Args:
        settings: of a model, where the annotator has one.
        prompts: what is asked and shown.
        options: the annotator's own, as `--option NAME=VALUE` gives them.

    It raises InvalidInput for a setting or an option that it cannot use.
    """

    def __call__(self, settings: ModelSettings, prompts: PromptSettings, options: Mapping[str, str]) -> Annotator: ...


def names() -> tuple[str, ...]:
    """The installed annotators, in order."""
    return tuple(sorted({found.name for found in entry_points(group=GROUP)}))


def load(name: str) -> Factory:
    """The factory of an installed annotator. What goes wrong in it is said in words that name its package.

    Raises:
        InvalidInput: nobody gives that name, several packages do, or the package cannot be imported.
    """
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        installed = names()
        near = difflib.get_close_matches(name, installed, 1, 0.5)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        listed = f"installed are {', '.join(installed)}" if installed else "none is installed"
        raise InvalidInput(f"no package gives an annotator called {name!r}: {listed}.{meant} See docs/add-an-annotator.md")
    packages = sorted({_package(each) for each in found})
    if len({each.value for each in found}) > 1:
        raise InvalidInput(f"several packages give an annotator called {name!r}: {', '.join(packages)}; uninstall all but one")
    return _Named(name, packages[0], _imported(found[0], packages[0]))


def _imported(found: EntryPoint, package: str) -> Any:
    try:
        factory = found.load()
    except (Exception, SystemExit) as error:
        raise InvalidInput(
            f"the annotator {found.name!r} of the package {package} cannot be imported from {found.value!r}: {_said(error)}. Mend "
            "or reinstall that package"
        ) from error
    if not callable(factory):
        raise InvalidInput(
            f"the annotator {found.name!r} of the package {package} is {found.value!r}, which is not a function but "
            f"{type(factory).__name__}; see docs/add-an-annotator.md"
        )
    return factory


def _package(found: EntryPoint) -> str:
    return f"{found.dist.name} {found.dist.version}" if found.dist is not None else "an unknown package"


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {redacted(str(error))}"


@dataclass(frozen=True)
class _Named:
    """A factory that knows whose it is."""

    name: str
    package: str
    factory: Any

    def __call__(self, settings: ModelSettings, prompts: PromptSettings, options: Mapping[str, str]) -> Annotator:
        try:
            made = self.factory(settings, prompts, dict(options))
        except VidattrError:
            raise
        except (Exception, SystemExit) as error:
            raise InvalidInput(
                f"the annotator {self.name!r} of the package {self.package} could not be made: {_said(error)}"
            ) from error
        lacks = [wanted for wanted in WANTED if not hasattr(type(made), wanted) and not hasattr(made, wanted)]
        if lacks:
            raise InvalidInput(
                f"the annotator {self.name!r} of the package {self.package} made a {type(made).__name__} without "
                f"{', '.join(lacks)}; see docs/add-an-annotator.md"
            )
        annotator: Annotator = made
        return annotator
