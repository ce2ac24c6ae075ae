from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from packager.errors import IntegrityMismatch, PackagerError, UnsafeInput, Unsupported
from packager.sources.hub_files import Hasher, RemoteFile, check_paths, missing_file, small_files, weight_files
from tests.hub_server import NOT_NEEDED, checkpoint_files

ABC = hashlib.sha256(b"abc").hexdigest()
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def listed(*paths: str) -> tuple[RemoteFile, ...]:
    return tuple(RemoteFile(path=path, url="", size_bytes=1) for path in paths)


def names(files: tuple[RemoteFile, ...]) -> set[str]:
    return {file.path for file in files}


def write_index(folder: Path, *shards: str) -> Path:
    path = folder / INDEX
    path.write_text(json.dumps({"weight_map": {f"t{n}": shard for n, shard in enumerate(shards)}}))
    return path


def test_everything_that_a_build_reads_is_taken_and_nothing_else(tmp_path: Path) -> None:
    every = checkpoint_files()
    index = tmp_path / INDEX
    index.write_bytes(every[INDEX])
    files = listed(*every)
    taken = names(small_files(files)) | names(weight_files(files, index, where="m"))
    assert taken == set(every) - set(NOT_NEEDED)


@pytest.mark.parametrize(
    "path",
    ["vocab.json", "merges.txt", "tokenizer.model", "qwen.tiktoken", "adapter_config.json", "LICENSE.md", "NOTICE",
     "License.txt", "special_tokens_map.json", "chat_template.json", "training_args.yaml", "xtuner_config.py"],
)  # fmt: skip
def test_a_small_file_is_taken(path: str) -> None:
    assert names(small_files(listed(path))) == {path}


@pytest.mark.parametrize(
    "path",
    ["modeling_qwen.py", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "model.ckpt", "a/config.json",
     "x.sh", "weights.gguf", "pytorch_model.bin.index.json", "tf_model.h5.index.json", "onnx/model.onnx"],
)  # fmt: skip
def test_code_pickles_and_other_layouts_are_not_taken(path: str) -> None:
    assert small_files(listed(path)) == ()


def test_the_shards_of_the_index_are_taken_and_no_second_copy(tmp_path: Path) -> None:
    files = listed("a.safetensors", "b.safetensors", "consolidated.safetensors")
    index = write_index(tmp_path, "a.safetensors", "b.safetensors")
    assert names(weight_files(files, index, where="m")) == {"a.safetensors", "b.safetensors"}


def test_one_file_wins_over_an_index_as_in_transformers() -> None:
    files = listed(WEIGHTS, INDEX, "model-00001-of-00001.safetensors", "config.json")
    assert names(small_files(files)) == {"config.json"}
    assert names(weight_files(files, None, where="m")) == {WEIGHTS}


def test_an_adapter_and_shards_without_an_index_are_taken() -> None:
    assert names(weight_files(listed("adapter_model.safetensors", "x.bin"), None, where="m")) == {
        "adapter_model.safetensors"
    }
    shards = listed("part-1.safetensors", "part-2.safetensors")
    assert weight_files(shards, None, where="m") == shards


def test_a_shard_that_the_hub_does_not_have_is_named(tmp_path: Path) -> None:
    index = write_index(tmp_path, "a.safetensors", "b.safetensors")
    with pytest.raises(Unsupported, match=r"m: model\.safetensors\.index\.json names b\.safetensors"):
        weight_files(listed("a.safetensors"), index, where="m")


@pytest.mark.parametrize(
    ("paths", "kind", "says"),
    [
        (
            ("pytorch_model.bin", "config.json"),
            UnsafeInput,
            r"m has no safetensors weights, only pickles such as pytorch_model",
        ),
        (("x-q4.gguf",), Unsupported, r"m has no safetensors weights; it has x-q4\.gguf"),
        (("config.json",), Unsupported, r"m has no safetensors weights$"),
    ],
    ids=["pickles", "gguf", "nothing"],
)
def test_a_model_without_safetensors_is_refused(paths: tuple[str, ...], kind: type[PackagerError], says: str) -> None:
    with pytest.raises(kind, match=says):
        weight_files(listed(*paths), None, where="m")


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "a/../../x",
        "/etc/passwd",
        "a//b",
        "./a",
        "a/.",
        "",
        "a\\..\\x",
        "C:/x",
        "a\nb",
        "a\x00b",
        "x" * 1025,
        "a/",
    ],
)
def test_a_path_that_leaves_the_folder_is_refused(path: str) -> None:
    with pytest.raises(UnsafeInput, match="no path inside the model's folder") as caught:
        check_paths(listed("config.json", path), where="hf:a/b")
    assert "\n" not in caught.value.message


def test_plain_paths_are_not_refused() -> None:
    check_paths(listed("config.json", "a/b.jinja", ".gitattributes", "模型.json", "a b.txt"), where="hf:a/b")


def test_the_git_id_is_gits_own(tmp_path: Path) -> None:
    data = b"what git says\n"
    (tmp_path / "f").write_bytes(data)
    git = subprocess.run(
        ["git", "hash-object", tmp_path / "f"], capture_output=True, text=True, check=True
    ).stdout.strip()
    hasher = Hasher(RemoteFile(path="f", url="", size_bytes=len(data), git_sha1=git))
    hasher.update(data)
    assert hasher.check("f").sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (RemoteFile(path="f", url="", size_bytes=3, sha256="0" * 64), f"sha256 is {ABC}, the hub says 0"),
        (RemoteFile(path="f", url="", size_bytes=3, git_sha1="0" * 40), "git blob is f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f"),
        (RemoteFile(path="f", url="", size_bytes=4), "size is 3, the hub says 4"),
    ],
    ids=["sha256", "git", "size"],
)  # fmt: skip
def test_other_bytes_are_an_integrity_mismatch_with_both_values(file: RemoteFile, says: str) -> None:
    hasher = Hasher(file)
    hasher.update(b"abc")
    with pytest.raises(IntegrityMismatch, match=says):
        hasher.check("f")


@pytest.mark.parametrize(
    ("present", "missing"),
    [
        ((), "config.json"),
        (("config.json",), WEIGHTS),
        (("config.json", WEIGHTS), None),
        (("config.json", INDEX, "a.safetensors"), "b.safetensors"),
        (("config.json", INDEX, "a.safetensors", "b.safetensors"), None),
        (("adapter_config.json",), "adapter_model.safetensors"),
        (("adapter_config.json", "adapter_model.safetensors"), None),
    ],
    ids=["empty", "config", "whole", "shard", "shards", "adapter", "whole adapter"],
)
def test_a_folder_is_whole_when_its_weights_are(present: tuple[str, ...], missing: str | None, tmp_path: Path) -> None:
    for name in present:
        (tmp_path / name).write_text("{}")
    if INDEX in present:
        write_index(tmp_path, "a.safetensors", "b.safetensors")
    assert missing_file(tmp_path) == missing
