"""Rankings in the metadata of a checkpoint."""

from filtersurgeon.ranking import rank
from filtersurgeon.ranking.annotation import read_annotation
from filtersurgeon.ranking.ranking import ANNOTATION
from fuzz.scratch import checkpoint


def corpus() -> list[bytes]:
    plain = checkpoint()
    return [
        rank(plain, method).annotate(plain).annotations[ANNOTATION].encode()
        for method in ("l1", "geometric-median")
    ]


def read(case: bytes) -> None:
    read_annotation(checkpoint().annotated(ANNOTATION, case.decode("utf-8", "replace")))
