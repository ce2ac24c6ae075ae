from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from packager.weights.slabs import SlabCache


def test_what_was_asked_for_last_is_kept_within_the_limit() -> None:
    cache, made = SlabCache(limit_bytes=3 * 40), []

    def get(key: str, size: int = 10) -> None:
        assert cache.get(key, lambda: made.append(key) or torch.ones(size)).shape == (size,)  # type: ignore[func-returns-value]

    for key in "abcabc":
        get(key)
    assert made == ["a", "b", "c"]
    get("d")  # a goes
    get("b")
    get("a")  # c goes, d and b were asked for since
    get("d")
    assert made == ["a", "b", "c", "d", "a"]
    get("large", 1000)  # is kept alone
    get("large", 1000)
    get("a")
    assert made[5:] == ["large", "a"]


def test_threads_that_ask_for_the_same_compute_it_once_and_an_error_is_not_kept() -> None:
    cache, made = SlabCache(), []

    def compute() -> torch.Tensor:
        made.append(1)
        if len(made) == 1:
            raise OSError("unlucky")
        return torch.ones(3)

    with pytest.raises(OSError, match="unlucky"):
        cache.get("x", compute)
    with ThreadPoolExecutor(8) as pool:
        assert all(found.sum() == 3 for found in pool.map(lambda _: cache.get("x", compute), range(50)))
    assert len(made) == 2
