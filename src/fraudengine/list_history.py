"""Changes of a list as people and programs read them: who added and removed what, when and why."""

from __future__ import annotations

from typing import Any

from .list_entries import time_text
from .list_reading import Event


def event_object(event: Event) -> dict[str, Any]:
    """A change as JSON: of one entry with its value and note, of several with a few values and their notes."""
    row: dict[str, Any] = {"at": time_text(event.at_us), "what": event.what, "entries": event.entries}
    entry, several = event.entry, event.several
    if entry is not None:
        removal = event.what == "remove"
        row |= {
            "id": entry.id,
            "scope": entry.target.scope,
            "value": entry.value,
            "reason": entry.removed_reason if removal else entry.reason,
            "ticket": entry.removed_ticket if removal else entry.ticket,
            "author": entry.removed_by if removal else entry.author,
        }
    elif several is not None:
        row |= {
            "first_id": several.first_id,
            "last_id": several.last_id,
            "scope": several.scope,
            "some_values": list(several.values),
            "reasons": list(several.reasons),
            "tickets": list(several.tickets),
            "authors": list(several.authors),
            "more_notes": several.more_notes,
        }
    return row


def event_text(event: Event) -> str:
    """A change as one line."""
    entry, several = event.entry, event.several
    authors: tuple[str | None, ...] = ()
    notes: tuple[str | None, ...] = ()
    more = ""
    if entry is not None:
        what = f"{entry.value} (entry {entry.id})"
        removal = event.what == "remove"
        authors = (entry.removed_by if removal else entry.author,)
        notes = (entry.removed_reason, entry.removed_ticket) if removal else (entry.reason, entry.ticket)
    else:
        what = f"{event.entries:,} entries"
        if several is not None:
            shown = ", ".join(several.values) + (", …" if event.entries > len(several.values) else "")
            what += f" ({several.first_id} to {several.last_id}: {shown})"
            authors, notes = several.authors, several.reasons + several.tickets
            more = ", …" if several.more_notes else ""
    by = ", ".join(author for author in authors if author)
    why = ", ".join(note for note in notes if note)
    return (
        f"{time_text(event.at_us)}  {event.what} {what}{f' by {by}' if by else ''}{f': {why}' if why else ''}{more}"
    )
