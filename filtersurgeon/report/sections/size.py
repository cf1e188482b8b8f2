"""How large the network is, how much it computes, and how fast."""

from __future__ import annotations

from filtersurgeon.inspection import inspect
from filtersurgeon.report.reporting import Section, Subject, Table


def size(subject: Subject) -> Section:
    """Give parameters, bytes and the spatial share; of what can be built, work and speed too."""
    checkpoints = [x for x in (subject.checkpoint, subject.before) if x]
    rows: list[tuple[object, ...]] = [
        ("parameters", *subject.measures.parameters),
        ("megabytes of tensors", *(x.nbytes / 1e6 for x in checkpoints)),
        (
            "per cent in spatial kernels",
            *(100 * inspect(x).spatial_share for x in checkpoints),
        ),
    ]
    rows += _work(subject)
    names = ("this", "compared with")[: len(checkpoints)]
    return Section("Size and speed", _difference(subject), (Table(("", *names), tuple(rows)),))


def _work(subject: Subject) -> list[tuple[object, ...]]:
    """Give multiply-accumulates and milliseconds of every network, if all can be built."""
    macs, times = subject.measures.macs(), subject.measures.latencies()
    rows: list[tuple[object, ...]] = []
    if macs:
        rows.append(("million multiply-accumulates per image", *(x / 1e6 for x in macs)))
    if times:
        rows.append(("milliseconds per image", *(x.median_ms for x in times)))
    return rows


def _difference(subject: Subject) -> tuple[str, ...]:
    """Say how far the outputs of a pair are apart."""
    if not (subject.before and subject.network and subject.network_before):
        return ()
    from filtersurgeon.learn.compare import ComparisonSettings
    from filtersurgeon.learn.evaluating import compare

    settings = subject.settings
    found = compare(
        [subject.before, subject.checkpoint],
        None,
        ComparisonSettings(batch_size=4, device=settings.device, latency_runs=0),
        random=4,
        seed=settings.seed,
        preprocess=settings.preprocess,
    )
    share = found.difference.relative_mean
    return (f"On the same random inputs the outputs differ by {share:.3g} of their length.",)
