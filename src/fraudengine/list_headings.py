"""The first line of an imported CSV: whether it is a heading, and which column of it is what.

A line that names `value` or `pan` is a heading. Any other is one only when its first cell is no value of the list
and its cells are words for columns, in English or French, or names of facts. Of customers and devices every text
is a value: there a heading in other words has two columns or more. What looks like a heading and is not surely one
is refused, neither taken as a value nor left out: whoever meant a value writes `value` above it.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from dataclasses import dataclass, field
from typing import Final

from .facts import CATALOGUE, ListKind
from .list_entries import ListTarget
from .list_values import InvalidEntry, read_value

COLUMNS: Final = ("value", "reason", "ticket", "author", "expires")
_KNOWN: Final = frozenset({*COLUMNS, "pan"})
_IGNORED: Final = frozenset({"id", "list", "scope", "kind", "state", "added", "source"})  # of an export
_ANY_TEXT: Final = frozenset({ListKind.CUSTOMER, ListKind.DEVICE})

LOOKS_LIKE_A_HEADING: Final = (
    f"looks like a heading; known are value, pan, {', '.join(COLUMNS[1:])}"
    " (if it is a value, put the heading `value` above it)"
)


def _words(**by_column: str) -> dict[str, str]:
    return {word: column for column, words in by_column.items() for word in words.split(", ")}


# Without accents and marks, as `_plain` makes them.
_COLUMN_WORDS: Final = _words(
    value="value, values, valeur, valeurs, entry, entree",
    pan="pan",
    reason="reason, raison, motif, why, comment, commentaire, note, cause",
    ticket="ticket, ticket id, numero de ticket",
    author="author, auteur, by, added by, par, ajoute par, created by, cree par",
    expires="expires, expire, expiry, expiry date, expires at, expiration, date d expiration, echeance",
) | {word: word for word in _IGNORED}
_KIND_WORDS: Final[dict[ListKind, str]] = {
    ListKind.CARD: "fingerprint, empreinte, fingerprints, empreintes",
    ListKind.BIN: "bin, bins, iin, prefix, prefixe",
    ListKind.IP: "ip, ips, ip address, adresse ip, address, adresse, network, reseau",
    ListKind.COUNTRY: "country, countries, pays, country code, code pays",
    ListKind.EMAIL: "email, emails, e mail, mail, courriel, email address, e mail address, adresse email,"
    " adresse e mail, adresse mail, adresse electronique",
    ListKind.EMAIL_DOMAIN: "domain, domains, domaine, domaines, email domain, domaine email",
    ListKind.PHONE: "phone, phones, telephone, tel, mobile, gsm, portable, phone number, telephone number,"
    " numero de telephone",
    ListKind.CUSTOMER: "customer, customers, client, clients, customer id, client id, id client, buyer, acheteur,"
    " user, user id, utilisateur, identifiant",
    ListKind.DEVICE: "device, devices, appareil, appareils, device id, terminal, fingerprint, empreinte",
}
_CARD_WORDS: Final = frozenset({"card", "cards", "carte", "cartes", "card number", "numero de carte"})
_VALUE_WORDS: Final[dict[ListKind, frozenset[str]]] = {
    kind: frozenset(
        words.split(", ") + [spec.name.replace("_", " ") for spec in CATALOGUE.values() if kind in spec.lists]
    )
    for kind, words in _KIND_WORDS.items()
}
_ALL_WORDS: Final = frozenset(_COLUMN_WORDS).union(
    _CARD_WORDS,
    *_VALUE_WORDS.values(),
    {"name", "nom", "number", "numero", "date", "status", "statut", "type", "merchant", "reference"},
)


class UnclearHeading(InvalidEntry):
    """The first line is a heading or looks like one, and what its columns are cannot be told."""


@dataclass(slots=True)
class Heading:
    """Where the columns are; none when the first line is a value. `delimiter` as that line has it."""

    delimiter: str
    columns: dict[str, int] = field(default_factory=dict)


def delimiter_of(text: str) -> str:
    return ";" if ";" in text and "," not in text else "\t" if "\t" in text and "," not in text else ","


def read_heading(text: str, target: ListTarget) -> Heading:
    """The delimiter, and the columns when the line names them. Raises UnclearHeading, which repeats nothing of it.

    InvalidEntry is raised for double quotes that are not closed.
    """
    delimiter = delimiter_of(text)
    cells = split_line(text, delimiter)
    names = [_plain(cell) for cell in cells]
    columns = [_column(name, target) for name in names]
    is_clear = None not in columns and len(set(columns)) == len(columns) and bool({"value", "pan"} & set(columns))
    if {"value", "pan"} & set(names):
        if not is_clear:
            known = f"the header names `value` (or `pan`) and any of {', '.join(COLUMNS[1:])}"
            raise UnclearHeading("value", known)
    elif not _looks_like_words(names, target) or (
        target.kind not in _ANY_TEXT and _is_value(cells[0], target.kind)  # `BY` is a country
    ):
        return Heading(delimiter)
    elif not is_clear or (target.kind in _ANY_TEXT and len(names) == 1):
        raise UnclearHeading("value", LOOKS_LIKE_A_HEADING)
    return Heading(delimiter, {str(column): place for place, column in enumerate(columns)})


def _plain(cell: str) -> str:
    """The words of a cell in lower case, without accents and marks."""
    letters = unicodedata.normalize("NFKD", cell.strip().lower())
    return " ".join(
        re.findall(r"[^\W_]+", "".join(letter for letter in letters if not unicodedata.combining(letter)))
    )


def _column(name: str, target: ListTarget) -> str | None:
    if target.kind is ListKind.CARD and name in _CARD_WORDS:
        return "pan"
    if name in _VALUE_WORDS[target.kind] or name == _plain(target.name):
        return "value"
    return _COLUMN_WORDS.get(name)


def _looks_like_words(names: list[str], target: ListTarget) -> bool:
    """Whether every cell that is filled is a word of headings, or the first and another are."""
    filled = [name for name in names if name]
    words = [name in _ALL_WORDS or name == _plain(target.name) for name in filled]
    return bool(words) and (all(words) or (words[0] and sum(words) > 1))


def _is_value(cell: str, kind: ListKind) -> bool:
    try:
        read_value(kind, cell)
    except InvalidEntry:
        return False
    return True


def split_line(text: str, delimiter: str) -> list[str]:
    """The cells of a line. Raises InvalidEntry for double quotes that are not closed."""
    if '"' not in text:
        return text.split(delimiter)
    try:
        return next(iter(csv.reader([text], delimiter=delimiter, strict=True)))
    except csv.Error:
        raise InvalidEntry(
            "value", "a double quote is not closed on its line, or text follows a closed one"
        ) from None
