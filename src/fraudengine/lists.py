"""List entries as of an instant: indexes over the entries that rule files hold, read through `Lists`.

How a value is found depends on what the entries are:

- card, country, e-mail, domain, phone, customer, device: the value itself;
- bin: an entry of 6 to 11 digits holds every value that begins with it, never a value shorter than itself;
- ip: an entry is a network (CIDR) and holds every address in it.

Of several entries that hold a value the most specific one counts, then the one added last, so that an expired
entry never hides the one that renewed it.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Container, Iterable, Mapping
from typing import Final, Protocol, TypeAlias, assert_never

from .facts import Card, FactValue, ListKind
from .records import record
from .rules.ast import DeclaredList, ListContents, ListEntry, ListName

_Entries: TypeAlias = tuple[ListEntry, ...]


class ListIndex(ListContents, Protocol):
    """The entries of one list, arranged so that a look-up does not depend on how many there are."""

    def find(self, value: FactValue, as_of_us: int) -> ListEntry | None:
        """The entry in force that holds the value, or None."""
        ...


class RunTimeEntries(Protocol):
    """The entries of one merchant that are kept at run time (`runtime_lists.MerchantLists`)."""

    def find(self, name: ListName, value: FactValue, as_of_us: int) -> ListEntry | None: ...

    def could_hold(self, indexes: Mapping[ListName, ListIndex]) -> Mapping[ListName, ListContents]:
        """What each list could hold, in its index or at run time."""
        ...


@record
class Hit:
    """An entry that held a fact's value; `by_former_key` when only the card's fingerprint before did."""

    name: ListName
    value: FactValue
    entry: ListEntry
    by_former_key: bool = False


@record
class ListsAsOf:
    """The lists of one merchant as of one instant (UTC microseconds): rule files first, then run-time entries.

    Of the transaction's card, lists know more than its facts may show: the leading digits beyond `card_bin`, and
    the fingerprint under the key before. `hits` gathers what was found when somebody wants to know.
    """

    indexes: Mapping[ListName, ListIndex]
    as_of_us: int
    run_time: RunTimeEntries | None = None
    card: Card | None = None
    hits: list[Hit] | None = None

    @property
    def could_hold(self) -> Mapping[ListName, ListContents]:
        if self.card is not None and self.card.former_fingerprint is not None:
            return dict.fromkeys(self.indexes, ANYTHING)
        return self.indexes if self.run_time is None else self.run_time.could_hold(self.indexes)

    def find(self, name: ListName, value: FactValue) -> ListEntry | None:
        index, card = self.indexes[name], self.card
        sought = value
        if card is not None and card.account_range is not None and isinstance(index, PrefixIndex):
            sought = card.account_range if value == card.bin else value
        found = index.find(sought, self.as_of_us) if self.run_time is None else self._find(name, index, sought)
        former = card.former_fingerprint if card is not None and value == card.fingerprint else None
        by_former_key = found is None and former is not None
        if found is None and former is not None:
            found = self._find(name, index, former)
        if found is not None and self.hits is not None:
            self.hits.append(Hit(name, value, found, by_former_key))
        return found

    def _find(self, name: ListName, index: ListIndex, value: FactValue) -> ListEntry | None:
        found = index.find(value, self.as_of_us)
        if found is None and self.run_time is not None:
            return self.run_time.find(name, value, self.as_of_us)
        return found


def build_indexes(lists: Mapping[ListName, DeclaredList]) -> dict[ListName, ListIndex]:
    return {name: build_index(declared) for name, declared in lists.items()}


def build_index(declared: DeclaredList) -> ListIndex:
    """The index that the kind of the list asks for."""
    match declared.kind:
        case ListKind.BIN:
            return PrefixIndex(declared.entries)
        case ListKind.IP:
            return NetworkIndex(declared.entries)
        case (
            ListKind.CARD
            | ListKind.COUNTRY
            | ListKind.EMAIL
            | ListKind.EMAIL_DOMAIN
            | ListKind.PHONE
            | ListKind.CUSTOMER
            | ListKind.DEVICE
        ):
            return ExactIndex(declared.entries)
        case _:
            assert_never(declared.kind)


class Anything:
    """Contains every value: what a list could hold of which that is not known beforehand."""

    __slots__ = ()

    @property
    def always(self) -> Container[FactValue]:
        return ()

    def __contains__(self, value: object, /) -> bool:
        return True


ANYTHING: Final = Anything()


class ExactIndex(dict[FactValue, _Entries]):
    """Entries that hold exactly their own value: by that value, the one added last first."""

    __slots__ = ("always",)

    def __init__(self, entries: Iterable[ListEntry]) -> None:
        super().__init__(_by_key((entry.value, entry) for entry in entries))
        self.always: Container[FactValue] = frozenset(
            key for key, held in self.items() if any(map(_is_undated, held))
        )

    def find(self, value: FactValue, as_of_us: int) -> ListEntry | None:
        held = self.get(value)
        return None if held is None else _in_force(held, as_of_us)


class PrefixIndex(Anything):
    """Entries of leading digits; the longest entry that a value begins with counts."""

    __slots__ = ("_entries", "_lengths")

    def __init__(self, entries: Iterable[ListEntry]) -> None:
        self._entries = _by_key((entry.value, entry) for entry in entries)
        self._lengths = sorted({len(entry) for entry in self._entries if isinstance(entry, str)}, reverse=True)

    def __contains__(self, value: object, /) -> bool:
        return bool(self._entries)

    def find(self, value: FactValue, as_of_us: int) -> ListEntry | None:
        digits = str(value)
        for length in self._lengths:
            if length <= len(digits):
                held = self._entries.get(digits[:length])
                found = None if held is None else _in_force(held, as_of_us)
                if found is not None:
                    return found
        return None


class NetworkIndex(Anything):
    """Entries that are networks; the narrowest network that holds an address counts."""

    __slots__ = ("_is_empty", "_networks")

    def __init__(self, entries: Iterable[ListEntry]) -> None:
        by_width: dict[tuple[int, int], list[tuple[int, ListEntry]]] = {}
        for entry in entries:
            network = ipaddress.ip_network(entry.value)
            shift = network.max_prefixlen - network.prefixlen
            number = int(network.network_address) >> shift
            by_width.setdefault((network.version, shift), []).append((number, entry))
        # version -> (bits of the host part, networks by their leading bits), narrowest first
        self._networks: dict[int, list[tuple[int, dict[FactValue, _Entries]]]] = {4: [], 6: []}
        for (version, shift), numbered in sorted(by_width.items(), key=lambda item: item[0]):
            self._networks[version].append((shift, _by_key(numbered)))
        self._is_empty = not by_width

    def __contains__(self, value: object, /) -> bool:
        return not self._is_empty

    def find(self, value: FactValue, as_of_us: int) -> ListEntry | None:
        version, number = read_address(str(value))
        for shift, networks in self._networks[version]:
            held = networks.get(number >> shift)
            found = None if held is None else _in_force(held, as_of_us)
            if found is not None:
                return found
        return None


class Networks:
    """A fixed set of networks (CIDR, canonical) that addresses are tested against."""

    __slots__ = ("_networks",)

    def __init__(self, networks: Iterable[str]) -> None:
        by_width: dict[tuple[int, int], set[int]] = {}
        for text in networks:
            network = ipaddress.ip_network(text)
            shift = network.max_prefixlen - network.prefixlen
            by_width.setdefault((network.version, shift), set()).add(int(network.network_address) >> shift)
        self._networks = {
            version: tuple((shift, frozenset(found)) for (of, shift), found in by_width.items() if of == version)
            for version in (4, 6)
        }

    def hold(self, address: str) -> bool:
        version, number = read_address(address)
        return any(number >> shift in found for shift, found in self._networks[version])


def read_address(text: str) -> tuple[int, int]:
    """The version (4 or 6) of an internet address and the address as a number; ValueError for anything else.

    `inet_pton` is ten times as fast as `ipaddress`, which keeps what only it can read: a zone (`fe80::1%eth0`).
    """
    try:
        return 4, int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big")
    except OSError:
        address = ipaddress.ip_address(text)
        return address.version, int(address)


def _by_key(pairs: Iterable[tuple[FactValue, ListEntry]]) -> dict[FactValue, _Entries]:
    """The entries of each key, the one added last first; of two added at once, the later in the file."""
    found: dict[FactValue, _Entries] = {}
    for key, entry in pairs:
        held = found.get(key)
        found[key] = (entry,) if held is None else (entry, *held)
    for key, held in found.items():
        if len(held) > 1:
            found[key] = tuple(sorted(held, key=_added, reverse=True))
    return found


def _added(entry: ListEntry) -> float:
    return float("-inf") if entry.added_us is None else entry.added_us


def _is_undated(entry: ListEntry) -> bool:
    return entry.added_us is None and entry.expires_us is None


def _in_force(held: _Entries, as_of_us: int) -> ListEntry | None:
    for entry in held:
        if entry.in_force(as_of_us):
            return entry
    return None
