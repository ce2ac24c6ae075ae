"""Pickled weights: the same tensors as torch reads, and nothing happens when the pickle wants something else."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from packager.errors import InputInvalid, NoSpace, PackagerError, UnsafeInput
from packager.events import Event, Noted, silent
from packager.formats.adapter import read_adapter
from packager.formats.checkpoint import read_checkpoint
from packager.sources.pickled_weights import convert_pickle, converted_folder, pickles_of
from packager.sources.resolve import Typed, resolve
from packager.sources.shards import usual_layout
from packager.sources.trainer_config import read_trainer_config
from tests.formats.tiny_folders import write_adapter, write_base
from tests.sources import hostile_pickles as hostile
from tests.sources.test_trainer_output import plant_leftovers


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACKAGER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def as_pickle(folder: Path, name: str = "pytorch_model.bin", source: str = "model.safetensors") -> Path:
    """Replace a folder's safetensors by what torch.save writes."""
    torch.save(load_file(folder / source), folder / name)
    (folder / source).unlink()
    return folder


# --- the values ---------------------------------------------------------------------------------------------------------

_WIDE = torch.arange(48, dtype=torch.float32).reshape(6, 8)
TENSORS = {
    "float32": torch.randn(3, 4),
    "bfloat16": torch.randn(3, 4).bfloat16(),
    "float16": torch.randn(5).half(),
    "float64": torch.randn(2).double(),
    "int64": torch.arange(5),
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 3),
    "parameter": torch.nn.Parameter(torch.randn(2, 2)),
    "transposed": _WIDE.t(),
    "view": _WIDE[2:4, 1:5],
    "every second row": _WIDE[::2],
    "expanded": torch.ones(1, 3).expand(2, 3),
}


def test_every_kind_of_tensor_has_the_values_that_torch_reads(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "a.bin")

    convert_pickle(tmp_path / "a.bin", tmp_path / "a.safetensors", emit=silent)

    found, expected = load_file(tmp_path / "a.safetensors"), torch.load(tmp_path / "a.bin", weights_only=True)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value.detach()), name


def test_what_is_no_tensor_is_told_and_not_imported(tmp_path: Path) -> None:
    events: list[Event] = []
    path = hostile.write_calling(tmp_path / "a.bin", "mmengine.logging", "HistoryBuffer", "x")

    convert_pickle(path, tmp_path / "a.safetensors", emit=events.append)

    assert load_file(tmp_path / "a.safetensors")["w"].tolist() == [1.0, 2.0]
    assert [event.text for event in events if isinstance(event, Noted)] == [
        "a.bin: names mmengine.logging.HistoryBuffer; none of it was imported"
    ]


# --- folders ------------------------------------------------------------------------------------------------------------


def test_a_base_is_converted_once(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    base = as_pickle(shutil.copytree(tiny("qwen2.5"), tmp_path / "packy"))
    plant_leftovers(base)

    folder = resolve(Typed(base=base, allow_pickle=True)).base

    assert (folder.name, read_checkpoint(folder).name) == ("packy", "packy")
    expected = load_file(tiny("qwen2.5") / "model.safetensors")
    found = load_file(folder / "model.safetensors")
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert resolve(Typed(base=base, allow_pickle=True)).base == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


def test_a_pickle_that_changes_is_converted_again(tmp_path: Path) -> None:
    base = as_pickle(write_base(tmp_path / "base"))
    first = converted_folder(base, adapter=False, emit=silent)
    torch.save({"w": torch.ones(2)}, base / "pytorch_model.bin")
    assert converted_folder(base, adapter=False, emit=silent) != first


def test_an_output_layer_that_is_the_embedding_is_left_out_as_transformers_does(
    tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny("qwen2.5"), dtype="auto")
    state = model.state_dict()
    assert "lm_head.weight" in state
    base = shutil.copytree(tiny("qwen2.5"), tmp_path / "packy")
    (base / "model.safetensors").unlink()
    torch.save(state, base / "pytorch_model.bin")

    tied = read_checkpoint(converted_folder(base, adapter=False, emit=silent))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    untied = read_checkpoint(converted_folder(base, adapter=False, emit=silent))

    assert {entry.name for entry in tied.tensors} == set(load_file(tiny("qwen2.5") / "model.safetensors"))
    assert {entry.name for entry in untied.tensors} == set(state)


def test_shards_with_and_without_an_index(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    names = sorted(tensors)
    files = [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
    for file, part in zip(files, (names[:2], names[2:]), strict=True):
        torch.save({name: tensors[name] for name in part}, base / file)
    without = usual_layout(converted_folder(base, adapter=False, emit=silent))
    places = {**dict.fromkeys(names[:2], files[0]), **dict.fromkeys(names[2:], files[1])}
    (base / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))

    with_index = converted_folder(base, adapter=False, emit=silent)

    assert with_index != without
    assert usual_layout(with_index) == with_index
    for folder in (without, with_index):
        assert {entry.name for entry in read_checkpoint(folder).tensors} == set(names)


def test_an_index_of_pickles_that_names_a_missing_tensor_is_refused(tmp_path: Path) -> None:
    base = as_pickle(write_base(tmp_path / "base"), "pytorch_model-00001-of-00001.bin")
    weight_map = {"gone.weight": "pytorch_model-00001-of-00001.bin"}
    (base / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))

    with pytest.raises(InputInvalid, match=r"does not hold gone\.weight"):
        read_checkpoint(resolve(Typed(base=base, allow_pickle=True)).base)


def test_an_adapter_is_converted(tmp_path: Path) -> None:
    base, lora = write_base(tmp_path / "base"), write_adapter(tmp_path / "lora")
    expected = load_file(lora / "adapter_model.safetensors")
    as_pickle(lora, "adapter_model.bin", "adapter_model.safetensors")

    (folder,) = resolve(Typed(base=base, adapters=(lora,), allow_pickle=True)).adapters

    found = load_file(folder / "adapter_model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert read_adapter(folder, read_checkpoint(base)).name == "lora"


def test_a_folder_that_was_moved_or_got_a_file_is_not_taken_for_what_it_was(tmp_path: Path) -> None:
    lora = as_pickle(write_adapter(tmp_path / "lora"), "adapter_model.bin", "adapter_model.safetensors")
    converted_folder(lora, adapter=True, emit=silent)
    (lora / "train.yaml").write_text("model_name_or_path: base\ntemplate: alpaca\n")
    assert (converted_folder(lora, adapter=True, emit=silent) / "train.yaml").is_file()

    (tmp_path / "elsewhere").mkdir()
    moved = converted_folder(lora.rename(tmp_path / "elsewhere" / "lora"), adapter=True, emit=silent)

    assert all(path.exists() for path in moved.iterdir())


@pytest.mark.parametrize("adapter", [pytest.param(False, id="base"), pytest.param(True, id="adapter")])
def test_a_checkpoint_is_converted_with_the_template_of_its_run(tmp_path: Path, adapter: bool) -> None:
    run = tmp_path / "run" / "checkpoint-5"
    run.parent.mkdir()
    if adapter:
        as_pickle(write_adapter(run), "adapter_model.bin", "adapter_model.safetensors")
    else:
        as_pickle(write_base(run))
    (run.parent / "training_args.yaml").write_text("model_name_or_path: base\ntemplate: alpaca\n")

    found = read_trainer_config(converted_folder(run, adapter=adapter, emit=silent))

    assert found is not None
    assert found.name == "alpaca"


@pytest.mark.parametrize("adapter", [pytest.param(False, id="base"), pytest.param(True, id="adapter")])
def test_pickles_are_refused_unless_they_are_allowed(tmp_path: Path, own_cache: Path, adapter: bool) -> None:
    base, lora = write_base(tmp_path / "base"), write_adapter(tmp_path / "lora")
    if adapter:
        as_pickle(lora, "adapter_model.bin", "adapter_model.safetensors")
    else:
        as_pickle(base)

    with pytest.raises(UnsafeInput, match=r"model\.bin: a pickle") as refused:
        resolve(Typed(base=base, adapters=(lora,)))

    assert "--allow-pickle" in refused.value.hint
    assert not own_cache.exists()


def test_safetensors_count_where_both_are_there(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    hostile.write_calling(base / "pytorch_model.bin", "os", "system", "false")
    assert pickles_of(base, adapter=False) == ()
    assert resolve(Typed(base=base)).base == base


def test_safetensors_that_hold_no_model_do_not_count(tmp_path: Path) -> None:
    base = as_pickle(write_base(tmp_path / "base"))
    (base / "value_head.safetensors").write_bytes(b"")  # of PPO
    assert pickles_of(base, adapter=False) == ("pytorch_model.bin",)


# --- what must not happen -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "name"),
    [
        pytest.param("os", "system", id="os.system"),
        pytest.param("posix", "system", id="posix.system"),
        pytest.param("subprocess", "getoutput", id="subprocess"),
        pytest.param("builtins", "exec", id="exec"),
        pytest.param("builtins", "eval", id="eval"),
        pytest.param("runpy", "_run_code", id="runpy"),
        pytest.param("torch.hub", "load", id="torch.hub"),
        pytest.param("importlib", "import_module", id="an import"),
        pytest.param("collections", "OrderedDict.fromkeys", id="a method of what is allowed"),
    ],
)
def test_a_call_does_nothing(tmp_path: Path, module: str, name: str) -> None:
    marker = tmp_path / "marker"
    command = f"touch {marker}" if name in ("system", "getoutput") else f"__import__('os').system('touch {marker}')"
    path = hostile.write_calling(tmp_path / "a.bin", module, name, command)

    convert_pickle(path, tmp_path / "a.safetensors", emit=silent)

    assert not marker.exists()
    assert load_file(tmp_path / "a.safetensors")["w"].tolist() == [1.0, 2.0]


def test_no_socket_is_opened(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        program = hostile.call("socket", "create_connection", f"127.0.0.1:{server.getsockname()[1]}")
        path = hostile.write_archive(tmp_path / "a.bin", hostile.HEAD + program + b".")

        with pytest.raises(InputInvalid, match="holds no state dict"):
            convert_pickle(path, tmp_path / "a.safetensors", emit=silent)

        with pytest.raises(TimeoutError):
            server.accept()


def test_a_plain_pickle_that_calls_is_no_archive(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = hostile.write_plain_pickle(tmp_path / "a.bin", hostile.Calls(os.system, f"touch {marker}"))

    with pytest.raises(InputInvalid, match=r"no archive of torch\.save"):
        convert_pickle(path, tmp_path / "a.safetensors", emit=silent)

    assert not marker.exists()


_MEMO = b"r\xff\xff\xff\x7f"  # LONG_BINPUT 2**31 - 1
_TWO_OF_A_BILLION = hostile.TENSOR.replace(b"K\x00K\x02\x85K\x01\x85", b"K\x00J\x00\xca\x9a\x3b\x85K\x00\x85")


@pytest.mark.parametrize(
    ("program", "records", "kind", "message"),
    [
        pytest.param(hostile.HEAD + b"}" + _MEMO + b".", {}, UnsafeInput, "a memo of 2147483647", id="a huge memo"),
        pytest.param(hostile.HEAD + b"\x82\x01.", {}, UnsafeInput, "instruction EXT1", id="the extension registry"),
        pytest.param(hostile.HEAD + b"(ios\nsystem\n.", {}, UnsafeInput, "instruction INST", id="INST"),
        pytest.param(
            hostile.HEAD + hostile.mapping(("w", _TWO_OF_A_BILLION)) + b".", {}, UnsafeInput, "ask to be written as",
            id="a small storage seen as a huge tensor",
        ),
        pytest.param(hostile.HEAD + b"X\xff\xff\xff\x7fa.", {}, InputInvalid, "cannot be read", id="a text beyond the end"),
        pytest.param(hostile.HEAD + b"\x8b\xff\xff\xff\x7f.", {}, InputInvalid, "cannot be read", id="a huge number"),
        pytest.param(hostile.HEAD + b"}", {}, InputInvalid, "cannot be read", id="no end"),
        pytest.param(b"", {}, InputInvalid, "cannot be read", id="nothing"),
        pytest.param(hostile.HEAD + b"N.", {}, InputInvalid, "holds no state dict", id="None"),
        pytest.param(hostile.HEAD + b"}.", {}, InputInvalid, "holds no tensor", id="an empty state dict"),
        pytest.param(
            hostile.HEAD + hostile.mapping(("w", b"K\x01")) + b".", {}, InputInvalid, "holds w, which is no tensor",
            id="a number among tensors",
        ),
        pytest.param(
            hostile.HEAD + hostile.mapping(("w", hostile.TENSOR), ("w\n", hostile.TENSOR)) + b".", {}, InputInvalid,
            "of the name", id="a name with a line end",
        ),
        pytest.param(
            hostile.HEAD + hostile.mapping(("w", hostile.TENSOR)) + b".", {"data/0": b"1234"}, InputInvalid,
            "w needs 8 bytes, its record has 4", id="too few bytes",
        ),
        pytest.param(
            hostile.HEAD + hostile.mapping(("w", hostile.TENSOR.replace(b"K\x00K\x02", b"K\x01K\x02"))) + b".", {},
            InputInvalid, "reaches to element 2 of 2", id="beyond its storage",
        ),
        pytest.param(
            hostile.HEAD + hostile.mapping(("w", hostile.TENSOR.replace(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x009"))) + b".",
            {}, InputInvalid, "has no record archive/data/9", id="a storage that is not there",
        ),
        pytest.param(
            hostile.HEAD + hostile.mapping(("w", hostile.TENSOR)) + b".", {"byteorder": b"big"}, InputInvalid,
            "big-endian", id="big-endian",
        ),
    ],
)  # fmt: skip
def test_what_is_no_weights_is_refused_in_one_line(
    tmp_path: Path, program: bytes, records: dict[str, bytes], kind: type[PackagerError], message: str
) -> None:
    path = hostile.write_archive(tmp_path / "a.bin", program, **records)

    with pytest.raises(kind, match=message) as refused:
        convert_pickle(path, tmp_path / "a.safetensors", emit=silent)

    assert str(path) in refused.value.message
    assert "\n" not in refused.value.message
    assert refused.value.hint


def test_a_pickle_that_takes_memory_without_end_is_stopped(tmp_path: Path) -> None:
    # Each pair of bytes, EMPTY_DICT and POP_MARK's opposite, keeps a new dict on the stack: 64 bytes for one.
    path = hostile.write_archive(tmp_path / "a.bin", hostile.HEAD + b"}" * (60 << 20) + b".")
    started = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss

    with pytest.raises(PackagerError) as refused:
        convert_pickle(path, tmp_path / "a.safetensors", emit=silent)

    assert refused.value.exit_code in (3, 4)
    assert time.monotonic() - started < 120
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < max(before, 4 << 20)  # KiB


@pytest.mark.parametrize(
    "action",
    [
        pytest.param("import os; os.system('true')", id="a shell"),
        pytest.param("import socket; socket.socket()", id="a socket"),
        pytest.param("open('/etc/passwd')", id="another file"),
        pytest.param("import os; os.fork()", id="a child"),
        pytest.param("import os; os.remove('/nowhere')", id="a file's end"),
        pytest.param("import xml.dom.minidom", id="an import"),
        pytest.param("exec('1')", id="code"),
        pytest.param("import ctypes; ctypes.CDLL(None)", id="a library"),
    ],
)
def test_the_locked_process_ends_at_whatever_it_does_not_need(action: str) -> None:
    code = (
        f"import os, socket, ctypes\nfrom packager.sources.torch_archive import lock\nlock()\n{action}\nprint('done')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 97
    assert "refused: " in done.stderr
    assert "done" not in done.stdout


def test_a_full_disk_is_no_fault_of_the_file(tmp_path: Path) -> None:
    path = hostile.write_plain(tmp_path / "a.bin")
    Path(tmp_path / "a.safetensors").symlink_to("/dev/full")

    with pytest.raises((NoSpace, UnsafeInput)):
        convert_pickle(path, tmp_path / "a.safetensors", emit=silent)


def test_nothing_is_left_where_a_conversion_failed(tmp_path: Path, own_cache: Path) -> None:
    base = write_base(tmp_path / "base")
    (base / "model.safetensors").unlink()
    hostile.write_archive(base / "pytorch_model.bin", hostile.HEAD + b"N.")

    with pytest.raises(InputInvalid, match="holds no state dict"):
        converted_folder(base, adapter=False, emit=silent)

    assert [path for path in own_cache.rglob("*") if path.suffix != ".lock" and path.is_file()] == []
