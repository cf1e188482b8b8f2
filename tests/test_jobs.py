"""Independent jobs: in this process, in two, and on small clusters."""

import os
from pathlib import Path

import numpy as np
import pytest

from filtersurgeon.data.data import DataSpec
from filtersurgeon.data.preprocess import Preprocessing
from filtersurgeon.errors import DataError, OptionError
from filtersurgeon.learn.evaluate import DataPlan, EvaluationSettings, NetworkPlan, evaluate_shards
from filtersurgeon.learn.jobs import JobSettings, job_key, run_jobs


def square(number: int, log: str = "") -> dict:
    if log:
        with Path(log).open("a") as file:
            file.write(f"{number} {os.getpid()}\n")
    if number < 0:
        raise ValueError("negative")
    return {"square": number * number}


def _squares(numbers, **options):
    found = run_jobs(square, [{"number": number} for number in numbers], JobSettings(**options))
    return [result["square"] for result in found]


def test_results_come_in_the_order_of_the_arguments():
    assert _squares([3, 1, 2]) == [9, 1, 4]
    assert _squares([]) == []


def test_two_processes_give_what_one_gives(tmp_path):
    log = str(tmp_path / "log")
    arguments = [{"number": number, "log": log} for number in range(6)]
    seen = []
    found = run_jobs(square, arguments, JobSettings(jobs=2), lambda *at: seen.append(at))
    assert [result["square"] for result in found] == [0, 1, 4, 9, 16, 25]
    assert str(os.getpid()) not in {line.split()[1] for line in Path(log).read_text().splitlines()}
    assert seen == [(count, 6) for count in range(7)]


def test_an_interrupted_sweep_goes_on_where_it_stopped(tmp_path):
    log, cache = tmp_path / "log", str(tmp_path / "cache")
    first = [{"number": number, "log": str(log)} for number in (2, 3, -1)]
    with pytest.raises(ValueError, match="negative"):
        run_jobs(square, first, JobSettings(cache=cache))
    log.unlink()
    again = [{"number": number, "log": str(log)} for number in (2, 3, 4)]
    found = run_jobs(square, again, JobSettings(cache=cache))
    assert [result["square"] for result in found] == [4, 9, 16]
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["4"]


def test_keys_tell_arguments_apart_and_ignore_their_order():
    assert job_key(square, {"number": 1, "log": "a"}) == job_key(square, {"log": "a", "number": 1})
    assert job_key(square, {"number": 1}) != job_key(square, {"number": 2})


def test_unusable_settings_are_refused():
    with pytest.raises(OptionError, match="did you mean dask"):
        _squares([1], backend="dusk")
    with pytest.raises(OptionError, match="at least 1"):
        _squares([1], jobs=0)
    with pytest.raises(OptionError, match="paths and plans"):
        run_jobs(square, [{"number": np.zeros(3)}])


def _pixels_as_outputs(tmp_path, count=24):
    """Images of four pixels; a network that only flattens has those as its outputs."""
    random = np.random.default_rng(0)
    path = tmp_path / "data.npz"
    pixels = random.integers(0, 256, (count, 2, 2), dtype=np.uint8)
    labels = np.where(random.random(count) < 0.5, pixels.reshape(count, 4).argmax(1), 0)
    np.savez(path, x=pixels, y=labels)
    preprocessing = Preprocessing((0.0,), (1.0,), None, 1.0, "center", "bilinear")
    right = int((pixels.reshape(count, 4).argmax(1) == labels).sum())
    return DataPlan(DataSpec(str(path)), preprocessing, 4), right


def test_shards_add_up_whatever_their_number(tmp_path):
    data, right = _pixels_as_outputs(tmp_path)
    network = NetworkPlan("torch.nn:Flatten")
    for shards in (1, 5, 99):
        found = evaluate_shards(network, data, shards, EvaluationSettings(batch_size=4))
        assert (found.n_images, found.top1) == (24, right)


def test_shards_that_were_done_are_not_done_again(tmp_path, monkeypatch):
    data, right = _pixels_as_outputs(tmp_path)
    network, jobs = NetworkPlan("torch.nn:Flatten"), JobSettings(cache=str(tmp_path / "cache"))
    evaluate_shards(network, data, 3, jobs=jobs)
    monkeypatch.setattr(NetworkPlan, "build", lambda _: pytest.fail("built again"))
    assert evaluate_shards(network, data, 3, jobs=jobs).top1 == right


def test_other_weights_are_another_job(tmp_path):
    import torch
    from safetensors.torch import save_file

    weights = tmp_path / "w.safetensors"
    network = NetworkPlan("torch.nn:Sequential", weights=str(weights))
    save_file({"a": torch.zeros(1)}, weights)
    first = network.digest()
    save_file({"a": torch.ones(1)}, weights)
    assert network.digest() != first


def test_a_plan_that_cannot_be_built_is_named(tmp_path):
    data, _ = _pixels_as_outputs(tmp_path)
    with pytest.raises(OptionError, match=r"torch\.nn:Flatten2"):
        evaluate_shards(NetworkPlan("torch.nn:Flatten2"), data, 1)
    with pytest.raises(OptionError, match="shards"):
        evaluate_shards(NetworkPlan("torch.nn:Flatten"), data, 0)
    with pytest.raises(DataError):
        evaluate_shards(
            NetworkPlan("torch.nn:Flatten"),
            DataPlan(DataSpec(str(tmp_path / "gone.npz")), data.preprocessing, 4),
            1,
        )


def test_two_processes_evaluate_what_one_does(tmp_path):
    data, right = _pixels_as_outputs(tmp_path)
    found = evaluate_shards(NetworkPlan("torch.nn:Flatten"), data, 4, jobs=JobSettings(jobs=2))
    assert (found.n_images, found.top1) == (24, right)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_a_cluster_of_two_workers_evaluates_what_one_process_does(tmp_path, backend):
    pytest.importorskip({"dask": "distributed", "ray": "ray"}[backend])
    data, right = _pixels_as_outputs(tmp_path)
    jobs = JobSettings(jobs=2, backend=backend, cache=str(tmp_path / "cache"))
    found = evaluate_shards(NetworkPlan("torch.nn:Flatten"), data, 4, jobs=jobs)
    assert (found.n_images, found.top1) == (24, right)
    assert len(list((tmp_path / "cache").glob("*.json"))) == 4
