"""Weights in use on a robot and those before them: a folder that records what replaced what, when and why.

Below the store's folder, for each model by its name:

- ``HASH-ID.safetensors``: weights that are or were in use, copied and checked by their hash and identity;
- ``history.json``: the entries in the order they came, and which one is in use;
- ``current.safetensors``: a link to the one in use, to give a node at its start.

The first entry holds the weights of the package when the store was first used: every rollback can end there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fg_depth_ros.files import atomic_write, sync_path, write_json
from fg_depth_ros.networks.checkpoint import CheckpointError, ModelCard, load_checkpoint
from fg_depth_ros.networks.registry import MODELS, has_weights, load_model, weights_path

SCHEMA = "fg_depth_weights_history/1"
VARIABLE = "FG_DEPTH_STORE"
CURRENT = "current.safetensors"
_HISTORY, _LOCK = "history.json", ".lock"


class StoreError(ValueError):
    """The store cannot do what was asked; the message names the folder or file, what is wrong and what to do."""


@dataclass(frozen=True)
class Entry:
    """Weights that are or were in use.

    ``identity`` tells apart files of the same weights, such as one calibrated for int8; empty in histories of 0.1.
    ``before`` is the number of the entry that they replaced, None for the first; ``record`` is free: where the file
    came from, on which bags it was evaluated, with which figures; ``left`` lists when and why it was rolled back (the
    name is part of the file format).
    """

    sha256: str
    since: str
    before: int | None
    record: dict[str, Any] = field(default_factory=dict)
    left: list[dict[str, str]] = field(default_factory=list)
    identity: str = ""

    @property
    def file(self) -> str:
        """Name of its file in the model's folder."""
        return _file_name(self.sha256, self.identity)

    def is_of(self, card: ModelCard) -> bool:
        """Tell whether a file with this card is that of the entry."""
        return self.sha256 == card.sha256 and self.identity in ("", card.identity)


@dataclass(frozen=True)
class History:
    """The entries of one model. ``current`` is the number of the one in use."""

    entries: tuple[Entry, ...]
    current: int

    @property
    def entry(self) -> Entry:
        """The entry in use."""
        return self.entries[self.current]

    @property
    def previous(self) -> Entry | None:
        """The entry that a rollback returns to; None if there is none."""
        before = self.entry.before
        return None if before is None else self.entries[before]


class WeightsStore:
    """The store in a folder. Its files change under a lock, and each of them as a whole."""

    def __init__(self, folder: str | Path | None = None) -> None:
        """``folder``: default ``FG_DEPTH_STORE`` of the environment, else ``~/.local/share/fg_depth_ros/weights``."""
        named = folder or os.environ.get(VARIABLE) or "~/.local/share/fg_depth_ros/weights"
        self.folder = Path(named).expanduser().absolute()

    def models(self) -> list[str]:
        """Return the names of the models that have a history, sorted."""
        return sorted(name for name in MODELS if (self.folder / name / _HISTORY).is_file())

    def history(self, model: str) -> History | None:
        """Return the history of a model; None before its first promotion. Raises StoreError: unreadable."""
        path = self._of(model) / _HISTORY
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["schema"] != SCHEMA:
                raise ValueError(f"its schema is {values['schema']!r}, expected {SCHEMA!r}")
            history = History(tuple(Entry(**entry) for entry in values["entries"]), values["current"])
            history.entry  # noqa: B018  # a number that is no entry's is found here
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise StoreError(
                f"{path}: not a readable history ({error!r}); put a copy of it back, or move the folder "
                f"{path.parent} away to start again"
            ) from error
        return history

    def in_use(self, model: str) -> Path | None:
        """Return the file of the weights in use, of the package before the first promotion; None: there are none."""
        history = self.history(model)
        if history is None:
            return weights_path(model) if has_weights(model) else None
        path = self.path(model, history.entry)
        if not path.is_file():
            raise StoreError(f"{path}: the weights in use are gone; promote them again, or roll back")
        return path

    def uses(self, card: ModelCard) -> bool:
        """Tell whether these weights are in use, those of the package before the first promotion. Raises StoreError."""
        history = self.history(card.name)
        if history is not None:
            return history.entry.identity == card.identity
        return has_weights(card.name) and load_checkpoint(weights_path(card.name))[1].identity == card.identity

    def add(self, weights: str | Path) -> tuple[str, str, Path]:
        """Copy a file of weights into the store; return model, hash and path. Raises CheckpointError, StoreError."""
        card = load_model(weights)[1]
        with self._changing(card.name):
            return card.name, card.sha256, self._copy(weights, card)

    def promote(
        self, weights: str | Path, record: Mapping[str, Any], replaced: ModelCard | None = None
    ) -> tuple[str, History]:
        """Put a weights file into use; return its model's name and the history after that.

        ``replaced``: the only weights that it may replace, such as those that it was compared with; None: any. Nothing
        has changed when it raises CheckpointError or StoreError. Weights that are in use become no second entry.
        """
        card = load_model(weights)[1]
        with self._changing(card.name) as before:
            history = before or self._first(card.name)
            used = bool(history.entries) and history.entry.identity == card.identity
            if history.entries and replaced is not None and not (used or history.entry.is_of(replaced)):
                raise StoreError(
                    f"{self._of(card.name)}: {history.entry.sha256[:12]} came into use meanwhile; nothing was "
                    "changed: compare again"
                )
            self._copy(weights, card)  # also where it is in use: its file may be lost or damaged
            if used:
                return card.name, self._written(card.name, history)
            number = history.current if history.entries else None
            entry = Entry(card.sha256, _now(), number, dict(record), identity=card.identity)
            return card.name, self._written(card.name, History((*history.entries, entry), len(history.entries)))

    def rollback(self, model: str, why: str = "") -> tuple[Entry, Entry]:
        """Restore the weights before those in use; return the entry that was rolled back and the one in use.

        Raises StoreError: nothing is before it, its file is gone or damaged, or the folder cannot be written.
        """
        with self._changing(model) as history:
            if history is None:
                raise StoreError(f"{self._of(model)}: nothing was promoted yet, so there is nothing to roll back")
            if history.previous is None:
                raise StoreError(
                    f"{self._of(model)}: {history.entry.sha256[:12]} is the first entry; promote other weights instead"
                )
            self._checked(model, history.previous)
            rolled_back = history.entry
            noted = Entry(**{**asdict(rolled_back), "left": [*rolled_back.left, {"when": _now(), "why": why}]})
            entries = tuple(noted if number == history.current else e for number, e in enumerate(history.entries))
            assert rolled_back.before is not None
            restored = self._written(model, History(entries, rolled_back.before))
            return noted, restored.entry

    def problems(self, model: str) -> list[str]:
        """Return what is wrong with the files of a model."""
        history = self.history(model)
        if history is None:
            return []
        found = []
        link = self._of(model) / CURRENT
        if not link.is_symlink() or os.readlink(link) != history.entry.file:
            found.append(f"{link} does not lead to {history.entry.file}, which is in use; promote it again")
        try:
            self._checked(model, history.entry)
        except StoreError as error:
            found.append(str(error))
        return found

    def path(self, model: str, entry: Entry) -> Path:
        """Return the file of an entry's weights."""
        return self._of(model) / entry.file

    def _of(self, model: str) -> Path:
        if model not in MODELS:
            raise StoreError(f"unknown model '{model}'; known: {', '.join(sorted(MODELS))}")
        return self.folder / model

    def _checked(self, model: str, entry: Entry) -> None:
        path = self.path(model, entry)
        try:
            found = load_checkpoint(path)[1]
        except CheckpointError as error:
            raise StoreError(f"{error}; nothing was changed") from error
        if not entry.is_of(found):
            holds, expected = (_stem(each.sha256, each.identity) for each in (found, entry))
            raise StoreError(
                f"{path} holds weights {holds}, not {expected}; nothing was changed: put the right file back, or "
                "promote other weights"
            )

    def _first(self, model: str) -> History:
        """Return the history before a first promotion: the weights of the package, if any."""
        if not has_weights(model):
            return History((), 0)
        card = load_checkpoint(weights_path(model))[1]
        self._copy(weights_path(model), card)
        record = {"source": "shipped with the package"}
        return History((Entry(card.sha256, _now(), None, record, identity=card.identity),), 0)

    def _copy(self, weights: str | Path, card: ModelCard) -> Path:
        """Copy weights into the store, unless they are there and whole."""
        path = self._of(card.name) / _file_name(card.sha256, card.identity)
        with contextlib.suppress(CheckpointError):
            if load_checkpoint(path)[1].identity == card.identity:
                return path
        with atomic_write(path) as unfinished:
            shutil.copyfile(weights_path(weights), unfinished)
            if load_checkpoint(unfinished)[1].identity != card.identity:
                raise StoreError(f"{weights} changed while it was copied; try again")
        return path

    def _written(self, model: str, history: History) -> History:
        """Write the history, and point the link to its current entry.

        The history is what counts: after a power cut between the two, the next promotion or rollback corrects the link.
        """
        folder = self._of(model)
        values = {"schema": SCHEMA, "current": history.current, "entries": [asdict(e) for e in history.entries]}
        write_json(folder / _HISTORY, values, indent=1)
        with atomic_write(folder / CURRENT, sync=False) as unfinished:
            unfinished.symlink_to(history.entry.file)
        sync_path(folder)
        return history

    @contextlib.contextmanager
    def _changing(self, model: str) -> Iterator[History | None]:
        """Lock the history of a model and give it; None before the first entry. OSError becomes StoreError."""
        folder = self._of(model)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / _LOCK).open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield self.history(model)
        except OSError as error:
            raise StoreError(
                f"{error.filename or folder}: the store cannot be written ({error.strerror or error}); free space or "
                f"fix the permissions, or name another folder (--store, or {VARIABLE})"
            ) from error


def _stem(sha256: str, identity: str) -> str:
    return "-".join(filter(None, (sha256[:12], identity[:8])))


def _file_name(sha256: str, identity: str) -> str:
    return f"{_stem(sha256, identity)}.safetensors"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
