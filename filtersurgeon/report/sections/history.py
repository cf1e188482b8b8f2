"""What was done to the checkpoint."""

from __future__ import annotations

import json

from filtersurgeon.checkpoint import HistoryEntry
from filtersurgeon.checkpoint.summary import both_ends
from filtersurgeon.report.reporting import Section, Subject, Table


def history(subject: Subject) -> Section:
    """List the edits, the edits of the structure and where the tensors come from."""
    entries = subject.checkpoint.history
    if not entries:
        return Section("History", ("No edit is recorded: this is an original network.",))
    listed, left = both_ends(entries)
    rows = tuple(
        (
            place,
            entry.verb,
            _describe(entry),
            entry.version,
        )
        for place, entry in listed
    )
    text = []
    if left:
        text.append(f"{left:,} of {len(entries):,} steps in the middle are left out.")
    if entries[0].input:
        text.append(f"It began with tensors of digest {entries[0].input}.")
    edits = subject.checkpoint.structure
    if edits:
        text.append(f"The structure was edited {len(edits)} times; the last edits are listed.")
    text += [f"Step {place}: {e.warning}." for place, e in listed if e.warning]
    tables = [Table(("step", "verb", "options", "version"), rows)]
    if edits:
        last = tuple((json.dumps(dict(edit), sort_keys=True),) for edit in edits[-10:])
        tables.append(Table(("edit",), last))
    return Section("History", tuple(text), tuple(tables))


def _describe(entry: HistoryEntry) -> str:
    images = {"images": " ".join(entry.data.values())} if entry.data else {}
    return "  ".join(f"{key}={value}" for key, value in {**entry.options, **images}.items())
