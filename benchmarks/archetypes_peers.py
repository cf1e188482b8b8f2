"""The other packages for archetypal analysis, each behind the same small interface.

A peer takes the problem in its best form: a factor of the Gram matrix, which is as much smaller
than the filters as the matrix is, or its kernel solver. SPAMS also runs from our start, which it
does not have: that row compares the steps after it, not the packages. Each makes a given number
of its own steps.
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
    yield Peer("spams", "from our start", _spams_from_our_start)
    for init in ("furthest_sum", "plus_plus"):
        yield Peer("partipy", f"AA projected_gradients {init}", _partipy(init))


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


def _spams(F: np.ndarray, d: int, steps: int, Z0: np.ndarray | None = None) -> Solution:
    import spams

    with _silence():
        Z, A, _ = spams.archetypalAnalysis(
            np.asfortranarray(F.T),
            p=d,
            Z0=None if Z0 is None else np.asfortranarray(Z0.T),
            returnAB=True,
            computeXtX=True,
            stepsFISTA=0,
            stepsAS=steps,
            numThreads=1,
        )
    return A.toarray().T, Z.T


def _spams_from_our_start(F: np.ndarray, d: int, steps: int) -> Solution:
    from filtersurgeon.archetypes.problem import distinct_points
    from filtersurgeon.archetypes.start import extend_by_hull, successive_projection

    points = distinct_points(F, None)
    problem = points.problem()
    picks = extend_by_hull(problem, successive_projection(problem, d)[0], d)
    return _spams(F, d, steps, points.X[picks] + points.mean)


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


def _partipy(init: str) -> Callable[[np.ndarray, int, int], Solution]:
    def solve(F: np.ndarray, d: int, steps: int) -> Solution:
        from partipy.arch import AA

        model = AA(
            d, init=init, optim="projected_gradients", max_iter=steps, early_stopping=False, seed=0
        ).fit(F)
        return model.A, model.Z

    return solve
