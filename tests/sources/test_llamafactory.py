"""What a yaml of LLaMA-Factory makes, by the rules of its own `_setup_lora_tuning`."""

from __future__ import annotations

from pathlib import Path

import pytest

from packager.errors import InputInvalid, PackagerError, Unsupported
from packager.sources.llamafactory import is_llamafactory_file, read_llamafactory

GOLDENS = Path(__file__).parent.parent / "goldens" / "llamafactory"
BASE = "model_name_or_path: Qwen/Qwen2.5-0.5B-Instruct\n"
TRAINS = BASE + "do_train: true\noutput_dir: out\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "a.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "base", "adapters"),
    [
        pytest.param(BASE, "Qwen/Qwen2.5-0.5B-Instruct", (), id="a base to chat with"),
        pytest.param(BASE + "adapter_name_or_path: a\nexport_dir: x\n", "Qwen/Qwen2.5-0.5B-Instruct", ("a",), id="export"),
        pytest.param(BASE + "adapter_name_or_path: a, b\n", "Qwen/Qwen2.5-0.5B-Instruct", ("a", "b"), id="several"),
        pytest.param(BASE + "adapter_name_or_path: [a, b]\n", "Qwen/Qwen2.5-0.5B-Instruct", ("a", "b"), id="a list"),
        pytest.param(
            BASE + "adapter_name_or_path: a\nadapter_folder: b\n",
            "Qwen/Qwen2.5-0.5B-Instruct", ("a/b",), id="a subfolder of the adapter",
        ),
        pytest.param(TRAINS, "Qwen/Qwen2.5-0.5B-Instruct", ("out",), id="train"),
        pytest.param(
            TRAINS + "adapter_name_or_path: sft\n", "Qwen/Qwen2.5-0.5B-Instruct", ("out",), id="goes on with an adapter"
        ),
        pytest.param(
            TRAINS + "adapter_name_or_path: a,b\n",
            "Qwen/Qwen2.5-0.5B-Instruct", ("a", "out"), id="merges all but the last, and goes on with that",
        ),
        pytest.param(
            TRAINS + "adapter_name_or_path: a,b\ncreate_new_adapter: true\n",
            "Qwen/Qwen2.5-0.5B-Instruct", ("a", "b", "out"), id="merges all and makes a new one",
        ),
        pytest.param(TRAINS + "finetuning_type: full\n", "out", (), id="full"),
        pytest.param(TRAINS + "finetuning_type: freeze\n", "out", (), id="freeze"),
        pytest.param(BASE + "finetuning_type: full\n", "Qwen/Qwen2.5-0.5B-Instruct", (), id="full, only evaluated"),
        pytest.param(
            TRAINS + "pissa_init: true\npissa_convert: true\n",
            "Qwen/Qwen2.5-0.5B-Instruct", ("out/pissa_converted",), id="PiSSA, converted",
        ),
    ],
)  # fmt: skip
def test_a_yaml_names_a_base_and_adapters_in_order(
    tmp_path: Path, text: str, base: str, adapters: tuple[str, ...]
) -> None:
    found = read_llamafactory(write(tmp_path, text))

    assert found.base.text == base
    assert tuple(place.text for place in found.adapters) == adapters


@pytest.mark.parametrize(
    ("name", "adapter"), [pytest.param("train", "saves/packy", id="train"), pytest.param("export", "saves/packy", id="export")]
)  # fmt: skip
def test_the_real_ones_are_read(name: str, adapter: str) -> None:
    found = read_llamafactory(GOLDENS / f"{name}.yaml")

    assert (found.base.text, found.adapters[0].text, found.names_template) == ("SmolLM2-135M-Instruct", adapter, True)


def test_modelscope_and_a_revision_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, BASE + "model_revision: v2\n")
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1")

    assert (read_llamafactory(path).hub, read_llamafactory(path).revision) == ("ms:", "v2")
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "0")
    assert read_llamafactory(path).hub == ""


def test_a_base_in_few_bits_is_told(tmp_path: Path) -> None:
    (note,) = read_llamafactory(write(tmp_path, TRAINS + "quantization_bit: 4\n")).notes
    assert "4 bits" in note
    assert read_llamafactory(write(tmp_path, BASE + "quantization_bit: 4\n")).notes == ()


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        pytest.param("base_model: x\n", InputInvalid, "no model_name_or_path, so it is no config", id="of another trainer"),
        pytest.param("top.model_name: x\n", InputInvalid, "no model_name_or_path", id="of the web page"),
        pytest.param("model_name_or_path: 5\n", InputInvalid, "model_name_or_path is '5', expected a text", id="number"),
        pytest.param("model_name_or_path: [a]\n", InputInvalid, "expected a text", id="a list of bases"),
        pytest.param("model_name_or_path: ${oc.env:HOME}\n", InputInvalid, "which OmegaConf fills in", id="interpolated"),
        pytest.param(BASE + "do_train: true\n", InputInvalid, "and has no output_dir", id="nowhere to save"),
        pytest.param(BASE + "finetuning_type: lore\n", InputInvalid, "finetuning_type is 'lore'", id="unknown kind"),
        pytest.param(
            TRAINS + "finetuning_type: full\nadapter_name_or_path: a\n", InputInvalid, "which has no adapter", id="both"
        ),
        pytest.param(TRAINS + "stage: rm\n", Unsupported, "a reward model", id="a reward model"),
    ],
)  # fmt: skip
def test_what_makes_no_model_is_refused(tmp_path: Path, text: str, kind: type[PackagerError], message: str) -> None:
    with pytest.raises(kind, match=message.replace("$", r"\$")) as refused:
        read_llamafactory(write(tmp_path, text))
    assert str(tmp_path / "a.yaml") in refused.value.message
    assert refused.value.hint


def test_only_a_yaml_that_is_a_file_can_be_one(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    assert is_llamafactory_file(write(tmp_path, BASE))
    assert not is_llamafactory_file(tmp_path / "folder.yaml")
    assert not is_llamafactory_file(tmp_path / "none.yml")
