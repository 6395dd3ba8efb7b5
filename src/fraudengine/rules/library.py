"""A directory of rule files as an atomic snapshot of effective rule sets, kept up to date, last good kept.

A file that is refused changes nothing: its merchant keeps the rule set that was in force, and the refusal is
reported until the file is mended. A merchant file that is removed takes its merchant away; a directory that
becomes unreadable or empty takes nothing away, because that is never what an editor meant.
"""

from __future__ import annotations

import errno
import gc
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from ..diagnostics import Diagnostic, RuleFilesRefused, Severity, Span, UnknownMerchant
from ..facts import MerchantId
from .ast import RuleSet
from .check import CheckedFile, FileKind, check_text
from .checked import in_order
from .link import link, resolve_extends
from .sourcetext import decode_source, text_for_display
from .watch import Signature, Watch, signature_of

PLATFORM: Final = "platform"
_MERCHANTS: Final = "merchants/"
_LISTS: Final = "lists/"
_FOLDERS: Final = ("", _MERCHANTS, _LISTS)
_SUFFIXES: Final = (".yaml", ".yml")
_NEARLY: Final = (*_SUFFIXES, *(f"{suffix}.txt" for suffix in _SUFFIXES))
_TEST_SUFFIXES: Final = (".test.yaml", ".test.yml")


@dataclass(frozen=True, slots=True)
class Refusal:
    """A rule file that is refused, its mistakes, and whether older rules of it are still in force."""

    path: str
    diagnostics: tuple[Diagnostic, ...]
    last_good_in_force: bool

    def __str__(self) -> str:
        first = self.diagnostics[0]
        more = f" (and {len(self.diagnostics) - 1} more)" if len(self.diagnostics) > 1 else ""
        after = "the rules from before stay in force" if self.last_good_in_force else "it has no rules in force"
        return f"{self.path}:{first.span.line} is refused: {first.message}{more}; {after}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Every rule set in force at one moment. Never changed; a reload makes another."""

    rule_sets: Mapping[str, RuleSet]
    refusals: tuple[Refusal, ...] = ()
    refused_merchants: frozenset[str] = frozenset()

    def rule_set(self, merchant: str) -> RuleSet:
        """The merchant's effective rule set; raises UnknownMerchant."""
        found = self.rule_sets.get(merchant)
        if found is None or merchant == PLATFORM:
            raise UnknownMerchant(merchant, refused=merchant in self.refused_merchants)
        return found

    @property
    def merchants(self) -> tuple[MerchantId, ...]:
        return tuple(MerchantId(name) for name in sorted(self.rule_sets) if name != PLATFORM)


@dataclass(slots=True)
class _File:
    """One rule file on disk: what it was when last read, its mistakes then, and its last good form."""

    signature: Signature
    shown_text: str | None = None  # None: the text of `checked`, which nobody has been shown yet
    diagnostics: tuple[Diagnostic, ...] = ()
    checked: CheckedFile | None = None


class Library:
    """Reads a rule directory and keeps its snapshot; `refresh` may run on another thread than its readers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.snapshot = Snapshot({})
        self.problem = ""  # why the directory as a whole is of no use; empty when it is
        self._files: dict[str, _File] = {}
        self._texts: dict[str, str] = {}  # by sha256, of every file that a rule set in force is made from
        self._claimed_twice = False
        self._link_mistakes: dict[str, tuple[Diagnostic, ...]] = {}  # by path of the merchant's file
        self._watch = Watch(directory, _FOLDERS)

    @classmethod
    def load(cls, directory: Path) -> Library:
        """A library with its first snapshot. Files with mistakes are refused one by one, see `snapshot.refusals`.

        Raises RuleFilesRefused when nothing at all can be in force: no directory, no rule files, no good one.
        """
        library = cls(directory)
        library.refresh()
        if library.problem:
            place = Span(str(directory), 1, 1, 2)
            raise RuleFilesRefused([Diagnostic("no-rules", f"the rule directory {library.problem}", place)])
        if not library.snapshot.rule_sets:
            raise RuleFilesRefused(library.diagnostics, library.sources)
        return library

    @property
    def file_count(self) -> int:
        return len(self._files)

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """Every mistake and warning of every file, by place."""
        return in_order(
            [
                *(item for file in self._files.values() for item in file.diagnostics),
                *(item for items in self._link_mistakes.values() for item in items),
            ]
        )

    @property
    def sources(self) -> dict[str, str]:
        """The texts that diagnostics point into, without card numbers."""
        return {path: self._shown_text(file) for path, file in self._files.items()}

    def _shown_text(self, file: _File) -> str:
        if file.shown_text is None and file.checked is not None:
            file.shown_text = text_for_display(self._texts[file.checked.text_sha256])
        return file.shown_text or ""

    @property
    def checked_files(self) -> dict[str, CheckedFile]:
        """The last good form of each file, by path."""
        return {path: file.checked for path, file in self._files.items() if file.checked is not None}

    def files_in_force(self) -> dict[str, tuple[str, str]]:
        """The SHA-256 of the text in force of each file, and the user who owns the file, by path."""
        return {
            path: (checked.text_sha256, _owner(self.directory / path))
            for path, checked in self.checked_files.items()
        }

    def texts(self, rule_set: RuleSet) -> tuple[tuple[str, str], ...]:
        """Path and text of every file that a rule set in force is made from."""
        return tuple((path, self._texts[digest]) for path, digest in rule_set.sources)

    def may_have_changed(self) -> bool:
        """Whether `refresh` may have something to take up; a look at a share of the files (see `Watch`)."""
        return bool(self.problem) or self._watch.may_have_changed()

    def refresh(self) -> bool:
        """Takes up what changed on disk; True when there is a new snapshot."""
        self._watch.before_reading()
        with collector_paused():
            changed = self._take_up()
        self._watch.remember({path: file.signature for path, file in self._files.items()})
        return changed

    def _take_up(self) -> bool:
        try:
            seen = dict(find_rule_files(self.directory))
        except OSError as error:
            return self._report(f"cannot be read: {error.strerror}")
        if not seen:
            return self._report("holds no rule files; it needs `platform.yaml` or `merchants/<name>.yaml`")
        changed = self._read_changed(seen)
        removed = [path for path in self._files if path not in seen]
        before = {path: self._files.pop(path) for path in removed}
        self.problem = ""
        if not changed and not removed:
            return False
        shared_changed = any(not path.startswith(_MERCHANTS) for path in (*changed, *removed))
        self._link(None if shared_changed else set(changed), before)
        return True

    def _report(self, problem: str) -> bool:
        """Records that the directory is of no use; what is in force stays."""
        self.problem = problem
        return False

    def _read_changed(self, seen: Mapping[str, Signature]) -> list[str]:
        """Reads and checks the files whose signature is new."""
        changed = []
        for path, signature in seen.items():
            file = self._files.get(path)
            if file is not None and file.signature == signature:
                continue
            try:
                content = read_rule_file(self.directory / path)
            except OSError as error:
                text, checked = "", None
                problems: tuple[Diagnostic, ...] = (_unreadable(path, error),)
            else:
                text, checked, problems = _check(path, content)
            if file is None:
                file = self._files[path] = _File(signature)
            file.signature, file.diagnostics = signature, problems
            file.shown_text = None if checked is not None else text_for_display(text)
            if checked is not None:
                file.checked = checked
                self._texts[checked.text_sha256] = text
            changed.append(path)
        return changed

    # ---- linking ------------------------------------------------------------------------------------

    def _link(self, only: set[str] | None, removed: Mapping[str, _File]) -> None:
        """Makes the snapshot: links the merchants of the files in `only`, or all of them."""
        files, claimed_twice = self._by_name()
        if claimed_twice or self._claimed_twice:
            only = None
        self._claimed_twice = bool(claimed_twice)
        shared = {
            file.checked.name: file.checked
            for file in self._files.values()
            if file.checked is not None and file.checked.kind is FileKind.SHARED_LIST
        }
        gone = {file.checked.name for file in removed.values() if file.checked is not None} - files.keys()
        rule_sets = {name: known for name, known in self.snapshot.rule_sets.items() if name not in gone}
        mistakes = {
            path: items
            for path, items in self._link_mistakes.items()
            if path in self._files and only is not None and path not in only
        }
        mistakes |= claimed_twice
        for name, (path, _) in files.items():
            if path in claimed_twice or (only is not None and path not in only):
                continue
            linked = _link_one(name, files, shared)
            if isinstance(linked, RuleSet):
                rule_sets[name] = linked
            else:
                mistakes[path] = tuple(linked)
        self._link_mistakes = mistakes
        refusals = tuple(self._refusals(rule_sets))
        refused = frozenset(PurePosixPath(refusal.path).stem for refusal in refusals) - rule_sets.keys()
        self._forget_texts(rule_sets.values())
        self.snapshot = Snapshot(rule_sets, refusals, refused)

    def _by_name(self) -> tuple[dict[str, tuple[str, CheckedFile]], dict[str, tuple[Diagnostic, ...]]]:
        """Path and checked file of each rule set by name, and a mistake for each name that two files claim."""
        files: dict[str, tuple[str, CheckedFile]] = {}
        mistakes: dict[str, tuple[Diagnostic, ...]] = {}
        for path, file in sorted(self._files.items()):
            checked = file.checked
            if checked is None or checked.kind is FileKind.SHARED_LIST:
                continue
            if checked.name in files:
                other = files[checked.name][1]
                for one, two in ((checked, other), (other, checked)):
                    message = f"two files are for `{checked.name}`"
                    also = ((two.span, "the other one"),)
                    mistakes[one.path] = (
                        Diagnostic("two-files", message, one.span, "keep one of them", also=also),
                    )
                continue
            files[checked.name] = (path, checked)
        return files, mistakes

    def _refusals(self, rule_sets: Mapping[str, RuleSet]) -> Iterator[Refusal]:
        for path, file in sorted(self._files.items()):
            items = [item for item in (*file.diagnostics, *self._link_mistakes.get(path, ())) if _is_error(item)]
            if items:
                good = file.checked
                in_force = good is not None and (good.kind is FileKind.SHARED_LIST or good.name in rule_sets)
                yield Refusal(path, tuple(items), in_force)

    def _forget_texts(self, rule_sets: Iterable[RuleSet]) -> None:
        """Drops the texts that no rule set in force and no last good file is made from."""
        used = {digest for rule_set in rule_sets for _, digest in rule_set.sources}
        used |= {file.checked.text_sha256 for file in self._files.values() if file.checked is not None}
        self._texts = {digest: text for digest, text in self._texts.items() if digest in used}


@contextmanager
def collector_paused() -> Iterator[None]:
    """No garbage collection: it would walk the growing heap again and again, and reading leaves hardly a cycle."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except (OSError, KeyError):  # gone meanwhile, or a number without a name
        return "unknown"


def read_rule_file(path: Path) -> bytes:
    """The file's bytes; raises OSError, also for what is no file: a pipe would be waited for without end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device, and no file")
        return file.read()


def _unreadable(path: str, error: OSError) -> Diagnostic:
    return Diagnostic("unreadable", f"the file cannot be read: {error.strerror}", Span(path, 1, 1, 2))


def _check(path: str, content: bytes) -> tuple[str, CheckedFile | None, tuple[Diagnostic, ...]]:
    text, problems = decode_source(path, content)
    if text is None:
        return "", None, tuple(problems)
    checked, found = check_text(path, text)
    return text, checked, (*problems, *found)


def _link_one(
    name: str, files: Mapping[str, tuple[str, CheckedFile]], shared: Mapping[str, CheckedFile]
) -> RuleSet | list[Diagnostic]:
    by_name = _Checked(files)
    parents = resolve_extends(name, by_name)
    if isinstance(parents, list):
        return parents
    return link(by_name[name], parents, shared)


class _Checked(Mapping[str, CheckedFile]):
    """The checked files by name, without copying them for each merchant."""

    def __init__(self, files: Mapping[str, tuple[str, CheckedFile]]) -> None:
        self._files = files

    def __getitem__(self, name: str) -> CheckedFile:
        return self._files[name][1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _is_error(item: Diagnostic) -> bool:
    return item.severity is Severity.ERROR


# ---- files ----------------------------------------------------------------------------------------


def find_rule_files(directory: Path) -> Iterator[tuple[str, Signature]]:
    """Relative path and signature of every rule file, in the order of paths; raises OSError."""
    return ((path, signature_of(entry)) for path, entry in _entries(directory) if not path.endswith(_TEST_SUFFIXES))


def find_test_files(directory: Path) -> Iterator[str]:
    """Relative path of every test file, in the order of paths; raises OSError."""
    return (path for path, _ in _entries(directory) if path.endswith(_TEST_SUFFIXES))


def _entries(directory: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    for folder in _FOLDERS:
        try:
            found = sorted(os.scandir(directory / folder), key=lambda entry: entry.name)
        except FileNotFoundError:
            if not folder:
                raise
            continue
        for entry in found:
            if entry.name.endswith(_SUFFIXES) and not entry.name.startswith(".") and not _is_folder(entry):
                yield folder + entry.name, entry


def find_unread_files(directory: Path) -> Iterator[tuple[str, str]]:
    """Relative path of each file that looks like a rule file and is read by nobody, and what to do about it."""
    for folder in (_MERCHANTS, _LISTS, ""):
        try:
            found = sorted(os.scandir(directory / folder), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in found:
            name = entry.name
            if name.startswith("."):
                continue
            if _is_folder(entry):
                for path in _rule_files_in(Path(entry.path)) if folder else ():
                    yield f"{folder}{name}/{path}", f"move it to {folder}: folders in it are not read"
            elif name.lower().endswith(_NEARLY) and not name.endswith(_SUFFIXES):
                yield folder + name, "rename it: the name of a rule file ends in `.yaml`, in small letters"


def _rule_files_in(directory: Path) -> list[str]:
    try:
        return [path for path, _ in find_rule_files(directory)]
    except OSError:
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads nowhere
        return False
