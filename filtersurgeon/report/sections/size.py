"""How large the network is, how much it computes, and how fast."""

from __future__ import annotations

from filtersurgeon.inspection import inspect
from filtersurgeon.reporting import Section, Subject, Table


def size(subject: Subject) -> Section:
    """Give numbers, bytes and the spatial share; of a pair, work, speed and output too."""
    checkpoints = [x for x in (subject.checkpoint, subject.before) if x]
    rows: list[tuple[object, ...]] = [
        ("numbers", *(x.parameters for x in checkpoints)),
        ("megabytes of tensors", *(x.nbytes / 1e6 for x in checkpoints)),
        ("per cent in spatial kernels", *(100 * inspect(x).spatial_share for x in checkpoints)),
    ]
    text = []
    if subject.before and subject.network and subject.network_before:
        from filtersurgeon.evaluating import compare
        from filtersurgeon.learn.compare import ComparisonSettings

        found = compare(
            [subject.before, subject.checkpoint],
            None,
            ComparisonSettings(batch_size=4, device=subject.settings.device),
            random=4,
            seed=subject.settings.seed,
            preprocess=subject.settings.preprocess,
        )
        sides = (found.second, found.first)
        rows.append(("million multiply-accumulates per image", *(_millions(x) for x in sides)))
        rows.append(
            ("milliseconds per image", *(x.latency.median_ms if x.latency else "" for x in sides))
        )
        text.append(
            "On the same random inputs the outputs differ by "
            f"{found.difference.relative_mean:.3g} of their length."
        )
    names = ("this", "compared with")[: len(checkpoints)]
    return Section("Size and speed", tuple(text), (Table(("", *names), tuple(rows)),))


def _millions(side: object) -> object:
    macs = getattr(side, "macs", None)
    return "" if macs is None else macs / 1e6
