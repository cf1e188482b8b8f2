"""The other packages for archetypal analysis, each behind the same small door.

A peer takes the problem in its best form: the kernel solver and the Gram factor are as much
smaller than the filters as for our own solver. SPAMS is started from our own start, because it
has none of that quality. Each runs a given number of its own steps.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

Solution = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Peer:
    """One configuration of one package.

    Attributes:
        package: name of the module to import.
        name: what is configured.
        solve: gives A (N, d) and the archetypes' coordinates (d, k) for a factor (N, k), d and a
            number of steps.
    """

    package: str
    name: str
    solve: Callable[[np.ndarray, int, int], Solution]


def available() -> tuple[list[Peer], list[str]]:
    """Give the configurations of the packages that are installed, and the names of the others."""
    missing = []
    for package in sorted({peer.package for peer in _peers()}):
        try:
            importlib.import_module(package)
        except ImportError:
            missing.append(package)
    return [peer for peer in _peers() if peer.package not in missing], missing


def factor(X: np.ndarray) -> np.ndarray:
    """Give rows of min(N, l) numbers with the inner products of the centred rows of X."""
    X = X - X.mean(axis=0)
    if X.shape[1] <= len(X):
        return X
    values, vectors = np.linalg.eigh(X @ X.T)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def _peers() -> Iterator[Peer]:
    for method in ("pseudo_pgd", "pgd"):
        for init in ("furthest_sum", "uniform"):
            yield Peer("archetypes", f"KernelAA {method} {init}", _kernel_aa(method, init))
    yield Peer("py_pcha", "PCHA", _pcha)
    yield Peer("spams", "archetypalAnalysis", _spams)
    for optimiser, init in (
        ("projected_gradients", "furthest_sum"),
        ("projected_gradients", "plus_plus"),
        ("frank_wolfe", "furthest_sum"),
    ):
        yield Peer("partipy", f"AA {optimiser} {init}", _partipy(optimiser, init))


def _kernel_aa(method: str, init: str) -> Callable[[np.ndarray, int, int], Solution]:
    def solve(F: np.ndarray, d: int, steps: int) -> Solution:
        from archetypes import KernelAA

        model = KernelAA(
            d, kernel="linear", method=method, init=init, max_iter=steps, tol=0, random_state=0
        ).fit(F)
        return model.A_, model.B_ @ F

    return solve


def _pcha(F: np.ndarray, d: int, steps: int) -> Solution:
    from py_pcha import PCHA

    # It was written for NumPy 1, where this was the name.
    np.mat = np.asmatrix  # type: ignore[attr-defined]
    np.random.seed(0)
    XC, S, _, _, _ = PCHA(F.T, d, conv_crit=0.0, maxiter=steps)
    return np.asarray(S).T, np.asarray(XC).T


def _spams(F: np.ndarray, d: int, steps: int) -> Solution:
    import spams

    from filtersurgeon.archetypes.problem import distinct_points
    from filtersurgeon.archetypes.start import extended_by_hull, successive_projection

    problem = distinct_points(np.ascontiguousarray(F), None).problem()
    picks = extended_by_hull(problem, successive_projection(problem, d), d)
    first = np.array([np.flatnonzero(problem.members == pick)[0] for pick in picks])
    X = np.asfortranarray(F.T)
    with _silence():
        Z, A, _ = spams.archetypalAnalysis(
            X,
            Z0=np.asfortranarray(X[:, first]),
            returnAB=True,
            computeXtX=True,
            stepsFISTA=0,
            stepsAS=steps,
            numThreads=1,
        )
    return A.toarray().T, Z.T


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Send what compiled code prints to nowhere."""
    kept = os.dup(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _partipy(optimiser: str, init: str) -> Callable[[np.ndarray, int, int], Solution]:
    def solve(F: np.ndarray, d: int, steps: int) -> Solution:
        from partipy.arch import AA

        model = AA(d, init=init, optim=optimiser, max_iter=steps, early_stopping=False, seed=0).fit(
            F
        )
        return model.A, model.Z

    return solve
