"""The floor does the work of the files, and its kernels give their bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from packager.formats.gguf import GgmlType
from scripts.benchmark.conversions import Work, work_of
from tests.made_ggufs import Made


@pytest.mark.parametrize("kind", [GgmlType.F16, GgmlType.Q8_0, GgmlType.Q5_0], ids=lambda kind: kind.name)
def test_a_block_has_the_bytes_of_gguf_py(kind: GgmlType) -> None:
    import gguf
    import torch

    from packager.weights.llama_library import llama_library
    from scripts.benchmark.floor import convert_block

    rows = torch.randn((6, 512), generator=torch.Generator().manual_seed(3)).mul_(0.02)
    out = torch.zeros(rows.numel() * 4, dtype=torch.uint8)
    written = convert_block(llama_library(), rows, int(kind), out)
    expected = gguf.quants.quantize(rows.numpy(), gguf.GGMLQuantizationType(int(kind)))
    assert out[:written].numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", [GgmlType.Q4_K, GgmlType.Q6_K], ids=lambda kind: kind.name)
def test_a_block_has_the_bytes_of_a_build(kind: GgmlType) -> None:
    import torch

    from packager.weights.kernels import convert_rows
    from packager.weights.llama_library import llama_library
    from scripts.benchmark.floor import convert_block

    rows = torch.randn((6, 512), generator=torch.Generator().manual_seed(3)).mul_(0.02)
    out = torch.zeros(rows.numel() * 4, dtype=torch.uint8)
    written = convert_block(llama_library(), rows, int(kind), out)
    assert out[:written].numpy().tobytes() == bytes(convert_rows(rows, [kind], "rows")[kind])


def test_the_work_is_every_type_of_every_tensor_once(tiny_build: Callable[[str], Made]) -> None:
    """Against gguf-py's own reading of the same files."""
    import gguf

    files = sorted(gguf_file.path for gguf_file in tiny_build("llama3.1").ggufs)
    types: dict[str, set[int]] = {}
    shapes: dict[str, tuple[int, int]] = {}
    for file in files:
        for tensor in gguf.GGUFReader(file).tensors:
            columns = int(tensor.shape[0])
            shapes[tensor.name] = (columns, int(tensor.n_elements) // columns)
            types.setdefault(tensor.name, set()).add(int(tensor.tensor_type))
    expected: Counter[tuple[int, tuple[int, ...]]] = Counter()
    for name, kinds in types.items():
        wanted = tuple(sorted(kinds - {int(GgmlType.F32)}))
        if wanted:
            expected[shapes[name][0], wanted] += shapes[name][1]
    work = work_of(files)
    assert {(part.columns, part.kinds): part.rows for part in work} == expected
    assert sum(part.rows * part.columns for part in work) > 8_000_000  # the embedding among them


@pytest.mark.parametrize("threads", [1, 3], ids=str)
def test_every_row_is_converted_once(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts.benchmark import floor

    done: Counter[tuple[int, int]] = Counter()
    real = floor.convert_block

    def counted(library, source, kind, out):  # type: ignore[no-untyped-def]
        done[source.shape[1], kind] += source.shape[0]
        return real(library, source, kind, out)

    monkeypatch.setattr(floor, "convert_block", counted)
    q8_0, f16 = int(GgmlType.Q8_0), int(GgmlType.F16)
    work = (Work(columns=896, rows=1001, kinds=(f16, q8_0)), Work(columns=18944, rows=40, kinds=(q8_0,)))
    cost = floor.run_floor(work, threads)
    del done[floor.WARM_UP_COLUMNS, int(GgmlType.Q4_K)]
    assert done == {(896, f16): 1001, (896, q8_0): 1001, (18944, q8_0): 40}
    assert cost.seconds > 0
    assert cost.cpu_seconds > 0


def test_a_kernel_that_writes_another_size_is_an_error() -> None:
    import torch

    from scripts.benchmark.floor import convert_block

    class Library:
        def quantize_chunk(self, *_: object) -> int:
            return 1

    with pytest.raises(ValueError, match="Q8_0: 1 bytes for 1 rows of 32"):
        convert_block(Library(), torch.zeros((1, 32)), int(GgmlType.Q8_0), torch.zeros(64, dtype=torch.uint8))


def test_a_row_longer_than_a_block_stays_whole(tmp_path: Path) -> None:
    from scripts.benchmark.floor import _blocks

    columns = (1 << 18) + 256
    places = [(rows, width) for _, rows, width, _ in _blocks((Work(columns=columns, rows=3, kinds=(8,)),))]
    assert places == [(1, columns)] * 3
