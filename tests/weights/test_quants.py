"""Every quantization type, with and without an importance matrix: the bytes of llama.cpp's own converter and quantizer."""

from __future__ import annotations

import functools
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from packager.artifacts import Gguf, Quant
from packager.errors import InputInvalid, PackagerError, Unsupported, Usage
from packager.formats.build_folder import describe_gguf
from packager.formats.checkpoint import read_checkpoint
from packager.formats.gguf import read_gguf
from packager.parity.structure import _type_fault
from packager.quants import FILE_TYPES, FLOATS, NEED_IMPORTANCE, quant_named, quant_of_file_type
from packager.sources.llama_cpp_tree import LlamaCppTree
from packager.stages.weights import QuantizeJob, quantize
from packager.weights.sizes import estimated_sizes
from tests import llama_cpp_tools as llama
from tests.small_llamas import SmallLlama

MODELS = {
    "wide": SmallLlama(hidden=256, inner=256, layers=8, rows=32),
    # 256 divides neither, 32 not the rows of ffn_down
    "narrow": SmallLlama(hidden=96, inner=176, layers=8, kv_heads=1, rows=32),
    "experts": SmallLlama(hidden=256, inner=256, layers=1, experts=4, rows=48),
}
FREE = [quant for quant in Quant if quant not in NEED_IMPORTANCE and quant not in FLOATS]
QUANTIZED = [quant for quant in Quant if quant not in FLOATS]
# llama.cpp ends the process for q1_0 in rows that 128 does not divide; of the experts, types that treat them in another way
PLAIN = {
    "wide": FREE,
    "narrow": [quant for quant in FREE if quant is not Quant.Q1_0],
    "experts": [Quant.Q5_K_S, Quant.Q4_K_M, Quant.MXFP4_MOE, Quant.IQ4_XS, Quant.Q2_K],
}
WEIGHED = {
    "wide": QUANTIZED,
    "narrow": [quant for quant in QUANTIZED if quant is not Quant.Q1_0],
    "experts": [Quant.Q4_K_M, Quant.MXFP4_MOE, Quant.Q2_K_S, Quant.IQ2_XXS],
}


@dataclass(frozen=True, kw_only=True)
class Built:
    """A model, llama.cpp's own float files of it, and what is in an importance matrix for it."""

    folder: Path
    f32: Path
    bf16: Path
    matrix: dict[str, np.ndarray]

    def ours(
        self, tree: LlamaCppTree, output: Path, quants: list[Quant], imatrix: Path | None = None
    ) -> tuple[Gguf, ...]:
        output.mkdir(parents=True, exist_ok=True)
        job = QuantizeJob(
            base=read_checkpoint(self.folder), adapter=None, quants=tuple(quants), template=None, name="", file_stem="ours",
            output=output, tree=tree, imatrix=imatrix,
        )  # fmt: skip
        return quantize(job)


@pytest.fixture(scope="module")
def built(tree: LlamaCppTree, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Built]:
    @functools.cache
    def make(name: str) -> Built:
        folder = tmp_path_factory.mktemp(name)
        MODELS[name].write(folder / "base")
        f32, bf16 = (llama.convert(tree, folder / "base", kind, folder / f"{kind}.gguf") for kind in ("f32", "bf16"))
        random = np.random.default_rng(1)
        shapes = {t.name: t.shape for t in read_gguf(f32).tensors if t.name.startswith("blk.") and len(t.shape) > 1}
        matrix = {
            key: random.gamma(0.5, size=(shape[0] if len(shape) > 2 else 1, shape[-1])).astype(np.float32)
            for key, shape in shapes.items()
        }
        return Built(folder=folder / "base", f32=f32, bf16=bf16, matrix=matrix)

    return make


@pytest.fixture(scope="module")
def plain(
    built: Callable[[str], Built], tree: LlamaCppTree, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[Quant, Path]]:
    """Every type that needs no importance matrix, written in one pass."""

    @functools.cache
    def make(name: str) -> dict[Quant, Path]:
        quants = [quant for quant in Quant if quant in (*FLOATS, *PLAIN[name])]
        found = built(name).ours(tree, tmp_path_factory.mktemp("plain"), quants)
        return {gguf.quant: gguf.path for gguf in found}

    return make


@pytest.fixture(scope="module")
def weighed(
    built: Callable[[str], Built], tree: LlamaCppTree, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[Quant, Path]]:
    """Every type made with an importance matrix in one pass."""

    @functools.cache
    def make(name: str) -> dict[Quant, Path]:
        folder = tmp_path_factory.mktemp("weighed")
        # A power of two, so that sums divided by counts are the very means that llama_model_quantize is given.
        write_matrix(folder / "matrix.gguf", built(name).matrix, tokens=256)
        found = built(name).ours(tree, folder, WEIGHED[name], folder / "matrix.gguf")
        return {gguf.quant: gguf.path for gguf in found}

    return make


def write_matrix(path: Path, matrix: dict[str, np.ndarray], *, tokens: int = 300, unused: int = 0) -> None:
    """Write the GGUF form with gguf-py; the first `unused` experts of a stack were never asked."""
    import gguf

    writer = gguf.GGUFWriter(path, "")
    writer.kv_data[0].pop("general.architecture", None)
    writer.add_type(gguf.GGUFType.IMATRIX)
    writer.add_array("imatrix.datasets", ["talks.txt"])
    writer.add_uint32("imatrix.chunk_count", 7)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, values in matrix.items():
        counts = np.full((len(values), 1), tokens, dtype=np.float32)
        if len(values) > 1:
            counts[:unused] = 0
        writer.add_tensor(f"{name}.in_sum2", values * counts)
        writer.add_tensor(f"{name}.counts", counts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_legacy(path: Path, matrix: dict[str, np.ndarray], *, calls: int = 3) -> None:
    parts = [struct.pack("<i", len(matrix))]
    for name, values in matrix.items():
        parts += [struct.pack("<i", len(name)), name.encode(), struct.pack("<ii", calls, values.size)]
        parts.append((values * np.float32(calls)).astype(np.float32).tobytes())
    parts += [struct.pack("<ii", 7, len("talks.txt")), b"talks.txt"]
    path.write_bytes(b"".join(parts))


def llama_quantize(program: Path, source: Path, output: Path, quant: Quant, imatrix: Path) -> Path:
    """Run llama.cpp's program with a matrix."""
    command = [program, "--imatrix", imatrix, source, output, quant.value, "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-1000:]
    return output


def ids(values: list[Quant]) -> list[str]:
    return [value.value for value in values]


@pytest.mark.parametrize("name", MODELS)
def test_floats_are_what_the_converter_writes(
    name: str, built: Callable[[str], Built], plain: Callable[[str], dict[Quant, Path]]
) -> None:
    for quant, theirs in ((Quant.F32, built(name).f32), (Quant.BF16, built(name).bf16)):
        assert llama.differing_tensors(plain(name)[quant], theirs) == []
        from_folder_name = {"general.name", "general.size_label", "general.basename"}
        assert llama.differing_keys(plain(name)[quant], theirs) <= from_folder_name


@pytest.mark.parametrize(
    ("name", "quant"),
    [pytest.param(name, quant, id=f"{name}-{quant}") for name, quants in PLAIN.items() for quant in quants],
)
def test_every_type_is_what_the_quantizer_makes(
    name: str, quant: Quant, built: Callable[[str], Built], plain: Callable[[str], dict[Quant, Path]], tmp_path: Path
) -> None:
    ours = plain(name)[quant]
    theirs = llama.quantize(plain(name)[Quant.F32], tmp_path / "theirs.gguf", quant)
    assert llama.differing_tensors(ours, theirs) == []
    assert llama.differing_keys(ours, theirs) == set()
    ((_, estimated),) = estimated_sizes(read_checkpoint(built(name).folder), (quant,))
    header = read_gguf(ours).data_offset
    # The vocabulary of a tokenizer.model is guessed; in a model this small it is most of the header.
    assert estimated - 20 * 400 - 8000 == pytest.approx(ours.stat().st_size - header, rel=0.05)


@pytest.mark.parametrize("quant", QUANTIZED, ids=ids(QUANTIZED))
def test_every_type_with_a_matrix_is_what_the_quantizer_makes(
    quant: Quant,
    built: Callable[[str], Built],
    plain: Callable[[str], dict[Quant, Path]],
    weighed: Callable[[str], dict[Quant, Path]],
    tmp_path: Path,
) -> None:
    for name in MODELS:
        ours = weighed(name)
        if quant in ours:
            matrix = {key: values.ravel().tolist() for key, values in built(name).matrix.items()}
            theirs = llama.quantize(plain(name)[Quant.F32], tmp_path / "theirs.gguf", quant, matrix)
            assert llama.differing_tensors(ours[quant], theirs) == []


@pytest.mark.parametrize("unused", [0, 2], ids=["all", "two experts never asked"])
@pytest.mark.parametrize("legacy", [False, True], ids=["gguf", "dat"])
def test_both_formats_are_read_as_the_quantizer_reads_them(
    legacy: bool,
    unused: int,
    built: Callable[[str], Built],
    tree: LlamaCppTree,
    llama_quantize_program: Path,
    tmp_path: Path,
) -> None:
    model = built("experts")
    path = tmp_path / f"talks.{'dat' if legacy else 'gguf'}"
    if legacy:
        write_legacy(path, model.matrix, calls=3 if unused else 0)  # no calls: values as they are
    else:
        write_matrix(path, model.matrix, unused=unused)
    (ours,) = model.ours(tree, tmp_path / "out", [Quant.Q2_K_S], path)
    theirs = llama_quantize(llama_quantize_program, model.f32, tmp_path / "theirs.gguf", Quant.Q2_K_S, path)
    assert llama.differing_tensors(ours.path, theirs) == []
    from_folder_name = {"general.name", "general.size_label", "general.basename"}
    assert llama.differing_keys(ours.path, theirs) - from_folder_name == {"quantize.imatrix.file"}  # theirs is a path
    assert read_gguf(ours.path).value("quantize.imatrix.file") == path.name
    assert llama.sha256(llama.quantize(ours.path, tmp_path / "copy", None)) == ours.sha256  # what Ollama's create does


def test_a_file_of_any_type_has_a_sound_structure(plain: Callable[[str], dict[Quant, Path]]) -> None:
    """Also where every row falls back, as in the narrow model, and a q6_k file is q8_0 all through."""
    for name in ("wide", "narrow"):
        for quant, path in plain(name).items():
            gguf = describe_gguf(path)
            assert gguf.quant is quant
            assert _type_fault(gguf, read_gguf(path)) == ""


def test_what_needs_a_matrix_is_refused_before_the_first_byte(
    built: Callable[[str], Built], tree: LlamaCppTree, tmp_path: Path
) -> None:
    """Where every row falls back no tensor needs one, and llama.cpp writes the file as well."""
    base = read_checkpoint(built("wide").folder)
    for quant in NEED_IMPORTANCE:
        with pytest.raises(Usage, match=f"--quant {quant}: blk") as caught:
            built("wide").ours(tree, tmp_path / "out", [Quant.Q8_0, quant])
        assert "--calibrate" in caught.value.hint
        assert list((tmp_path / "out").iterdir()) == []
        with pytest.raises(Usage, match="importance matrix"):
            estimated_sizes(base, (quant,))
        assert estimated_sizes(base, (quant,), importance=True)
    (narrow,) = built("narrow").ours(tree, tmp_path / "narrow", [Quant.IQ2_XXS])
    theirs = llama.quantize(built("narrow").f32, tmp_path / "theirs.gguf", Quant.IQ2_XXS)
    assert llama.differing_tensors(narrow.path, theirs) == []


def test_types_that_divide_no_row_are_refused(
    built: Callable[[str], Built], tree: LlamaCppTree, tmp_path: Path
) -> None:
    with pytest.raises(Unsupported, match="96 columns, which 128 does not divide"):
        built("narrow").ours(tree, tmp_path, [Quant.Q1_0])


def _renamed(matrix: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**matrix, "blk.99.attn_q.weight": np.ones((1, 256), np.float32)}


def _widened(matrix: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**matrix, "blk.3.attn_q.weight": np.ones((1, 512), np.float32)}


def _without(matrix: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values for name, values in matrix.items() if name != "blk.3.attn_q.weight"}


def _infinite(matrix: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {**matrix, "blk.3.attn_q.weight": np.full((1, 256), np.inf, np.float32)}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        pytest.param(
            _renamed, InputInvalid, "values for blk.99.attn_q.weight, which this model does not", id="more layers"
        ),
        pytest.param(
            _widened, InputInvalid, "512 values for blk.3.attn_q.weight, which has 256 columns", id="another width"
        ),
        pytest.param(_infinite, InputInvalid, "blk.3.attn_q.weight has a value that is not finite", id="not finite"),
        pytest.param(_without, Usage, "blk.3.attn_q.weight becomes Q2_K", id="a tensor is missing that needs it"),
    ],
)
def test_a_matrix_of_another_model_is_refused(
    change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]],
    error: type[PackagerError],
    message: str,
    built: Callable[[str], Built],
    tree: LlamaCppTree,
    tmp_path: Path,
) -> None:
    write_matrix(tmp_path / "other.gguf", change(built("wide").matrix))
    with pytest.raises(error, match=message):
        built("wide").ours(tree, tmp_path / "out", [Quant.Q2_K_S], tmp_path / "other.gguf")
    assert list((tmp_path / "out").iterdir()) == []


def test_names_are_those_of_llama_quantize_and_numbers_those_of_llama_h() -> None:
    import llama_cpp

    for quant in Quant:
        prefix = "ALL" if quant is Quant.F32 else "MOSTLY"
        assert FILE_TYPES[quant] == getattr(llama_cpp, f"LLAMA_FTYPE_{prefix}_{quant.value.upper()}")
        assert quant_named(f" {quant.value.upper()} ") is quant
        assert quant_of_file_type(FILE_TYPES[quant]) is quant
    known = {name for name in vars(llama_cpp) if name.startswith("LLAMA_FTYPE_MOSTLY_")}
    assert {name.removeprefix("LLAMA_FTYPE_MOSTLY_").lower() for name in known} - {"nvfp4"} == set(Quant) - {"f32"}
    assert [quant_named(name) for name in ("Q3_K", "q4_k", "Q5_K")] == [Quant.Q3_K_M, Quant.Q4_K_M, Quant.Q5_K_M]
    assert [quant_of_file_type(number) for number in (4, True, "1", None, 39)] == [None] * 5
