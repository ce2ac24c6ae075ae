"""A checkpoint of the real XTuner as an adapter, equal to what XTuner's own converter makes of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from packager.errors import InputInvalid, PackagerError, UnsafeInput, Unsupported
from packager.events import silent
from packager.formats.adapter import read_adapter
from packager.formats.checkpoint import read_checkpoint
from packager.sources.resolve import Typed, resolve
from packager.sources.trainer_config import read_trainer_config
from packager.sources.xtuner import adapter_of_xtuner, is_xtuner_file, read_lora_settings
from tests.sources import hostile_pickles as hostile

GOLDENS = Path(__file__).parent.parent / "goldens" / "xtuner"
# What of peft's settings changes the merge.
MERGED = ("lora_alpha", "r", "bias", "base_model_name_or_path", "peft_type")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PACKAGER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """XTuner's work_dirs/packy after training."""
    folder = tmp_path / "packy"
    folder.mkdir()
    shutil.copy(GOLDENS / "iter_2.pth", folder)
    shutil.copy(GOLDENS / "packy_qwen.py.txt", folder / "packy_qwen.py")
    return folder


def test_it_is_the_adapter_that_xtuner_itself_makes(work: Path) -> None:
    folder = adapter_of_xtuner(work / "iter_2.pth", emit=silent)

    found, expected = (load_file(each / "adapter_model.safetensors") for each in (folder, GOLDENS / "hf"))
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    mine, theirs = (json.loads((each / "adapter_config.json").read_text()) for each in (folder, GOLDENS / "hf"))
    assert {key: mine[key] for key in MERGED} == {key: theirs[key] for key in MERGED}
    assert set(mine["target_modules"]) == set(theirs["target_modules"])


def test_the_command_line_takes_it_with_its_template(tiny: Callable[[str], Path], work: Path) -> None:
    typed = Typed(base=tiny("qwen2.5"), adapters=(work / "iter_2.pth",), allow_pickle=True)

    found = resolve(typed)

    base = read_checkpoint(found.base)
    adapter = read_adapter(found.adapters[0], base)
    assert adapter.name == "packy-iter_2"
    assert adapter.base_name == "models/packy-base"
    config = read_trainer_config(found.adapters[0])
    assert config is not None
    assert (config.trainer, config.name) == ("xtuner", "qwen_chat")
    assert resolve(typed) == found


def test_peft_loads_it_as_the_same_model(tiny: Callable[[str], Path], work: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = adapter_of_xtuner(work / "iter_2.pth", emit=silent)
    ids = torch.tensor([[5, 6, 7]])
    logits = []
    for adapter in (folder, GOLDENS / "hf"):
        base = AutoModelForCausalLM.from_pretrained(tiny("qwen2.5"), dtype=torch.float32)
        plain = base(ids).logits
        logits.append(PeftModel.from_pretrained(base, adapter)(ids).logits)

    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], plain)


def test_a_pickle_is_not_opened_unless_it_is_allowed(tiny: Callable[[str], Path], work: Path, own_cache: Path) -> None:
    with pytest.raises(UnsafeInput, match=r"iter_2\.pth: a pickle") as refused:
        resolve(Typed(base=tiny("qwen2.5"), adapters=(work / "iter_2.pth",)))
    assert "--allow-pickle" in refused.value.hint
    assert not own_cache.exists()


def test_it_is_no_base(work: Path) -> None:
    with pytest.raises(InputInvalid, match="expected a base") as refused:
        resolve(Typed(base=work / "iter_2.pth", allow_pickle=True))
    assert f"packager build BASE {work / 'iter_2.pth'} -o DIR --allow-pickle" in refused.value.hint


def test_a_folder_of_xtuners_names_its_newest_save(tiny: Callable[[str], Path], work: Path) -> None:
    shutil.copy(work / "iter_2.pth", work / "iter_10.pth")
    with pytest.raises(InputInvalid, match=r"no adapter_config\.json") as refused:
        resolve(Typed(base=tiny("qwen2.5"), adapters=(work,)))
    assert refused.value.hint == f"Pass the newest: {work / 'iter_10.pth'} --allow-pickle"


# --- the configuration --------------------------------------------------------------------------------------------------

WRITTEN = """\
raise SystemExit("a configuration is read, and never run")
pretrained_model_name_or_path = 'Qwen/Qwen1.5-0.5B-Chat'
alpha = 16
model = dict(
    type=SupervisedFinetune,
    llm=dict(type=AutoModelForCausalLM.from_pretrained, quantization_config=dict(type=BitsAndBytesConfig, load_in_4bit=True)),
    lora=dict(type={type}, r=64, lora_alpha={alpha}, lora_dropout=0.1, bias='none', task_type='CAUSAL_LM'{more}))
"""


def written(folder: Path, type_: str = "LoraConfig", alpha: str = "16", more: str = "") -> Path:
    path = folder / "config.py"
    path.write_text(WRITTEN.format(type=type_, alpha=alpha, more=more))
    return path


@pytest.mark.parametrize(
    ("type_", "alpha"),
    [
        pytest.param("LoraConfig", "16", id="as XTuner's own are written"),
        pytest.param("peft.LoraConfig", "16", id="with its module"),
        pytest.param("'peft.LoraConfig'", "16", id="as mmengine dumps it"),
        pytest.param("LoraConfig", "alpha", id="a constant of the file"),
    ],
)
def test_alpha_is_read_and_nothing_is_run(tmp_path: Path, type_: str, alpha: str) -> None:
    assert read_lora_settings(written(tmp_path, type_, alpha)) == {
        "lora_alpha": 16, "bias": "none", "base_model_name_or_path": "Qwen/Qwen1.5-0.5B-Chat"
    }  # fmt: skip


def test_what_changes_the_merge_is_read_too(tmp_path: Path) -> None:
    found = read_lora_settings(written(tmp_path, more=", use_rslora=True, use_dora=False"))
    assert (found["use_rslora"], found["use_dora"]) == (True, False)


def test_a_configuration_without_a_lora_has_none(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("model = dict(type=SupervisedFinetune, llm=dict(type=X))\nother = list((1, 2))\n")
    assert read_lora_settings(tmp_path / "a.py") == {}


@pytest.mark.parametrize(
    ("alpha", "more", "kind", "message"),
    [
        pytest.param("int('16')", "", InputInvalid, "lora_alpha is computed .line 7.", id="computed"),
        pytest.param("beta", "", InputInvalid, "lora_alpha is computed", id="a name of nothing"),
        pytest.param("None", "", InputInvalid, "has no lora_alpha", id="none"),
        pytest.param("16", ", modules_to_save=['lm_head']", Unsupported, "modules_to_save", id="whole modules"),
    ],
)
def test_settings_that_are_not_written_down_are_refused(
    tmp_path: Path, alpha: str, more: str, kind: type[PackagerError], message: str
) -> None:
    with pytest.raises(kind, match=message) as refused:
        read_lora_settings(written(tmp_path, alpha=alpha, more=more))
    assert refused.value.hint


# --- what cannot be taken -----------------------------------------------------------------------------------------------


def _no_config(work: Path) -> None:
    (work / "packy_qwen.py").unlink()


def _two_configs(work: Path) -> None:
    text = (work / "packy_qwen.py").read_text()
    (work / "older.py").write_text(text.replace("lora_alpha=6", "lora_alpha=12"))


def _no_python(work: Path) -> None:
    (work / "packy_qwen.py").write_text("model = dict(")


def _deepspeed(work: Path) -> None:
    (work / "iter_2.pth").unlink()
    (work / "iter_2.pth").mkdir()


def _whole_model(work: Path) -> None:
    torch.save({"state_dict": {"llm.model.norm.weight": torch.ones(4)}}, work / "iter_2.pth")


def _two_ranks(work: Path) -> None:
    name = "llm.base_model.model.model.layers.{}.mlp.up_proj.lora_A.default.weight"
    torch.save({"state_dict": {name.format(rank): torch.ones(rank, 4) for rank in (2, 3)}}, work / "iter_2.pth")


def _same_name(work: Path) -> None:
    name = "base_model.model.x.lora_A.weight"
    torch.save({"state_dict": {name: torch.ones(2, 4), f"llm.{name}": torch.ones(2, 4)}}, work / "iter_2.pth")


@pytest.mark.parametrize(
    ("spoil", "kind", "message", "hint"),
    [
        pytest.param(_no_config, InputInvalid, "no XTuner configuration beside it", "pth_to_hf", id="no config"),
        pytest.param(_two_configs, InputInvalid, "older.py and packy_qwen.py beside it", "only", id="two configs"),
        pytest.param(_no_python, InputInvalid, "not Python .line 1.", "again", id="no Python"),
        pytest.param(_deepspeed, Unsupported, "a folder of DeepSpeed's", "pth_to_hf", id="DeepSpeed's folder"),
        pytest.param(_whole_model, Unsupported, "holds model.norm.weight, which is no part of a LoRA", "pth_to_hf", id="whole"),
        pytest.param(_two_ranks, InputInvalid, "its LoRA has 2 ranks .2, 3.", "pth_to_hf", id="two ranks"),
        pytest.param(_same_name, InputInvalid, "has two tensors base_model", "", id="two tensors of one name"),
    ],
)  # fmt: skip
def test_what_is_no_lora_with_its_alpha_is_refused(
    work: Path, own_cache: Path, spoil: Callable[[Path], None], kind: type[PackagerError], message: str, hint: str
) -> None:
    spoil(work)

    with pytest.raises(kind, match=message) as refused:
        adapter_of_xtuner(work / "iter_2.pth", emit=silent)

    assert hint in refused.value.hint
    assert list(own_cache.rglob("*.safetensors")) == []


def test_a_hostile_checkpoint_does_nothing(work: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    hostile.write_calling(work / "iter_2.pth", "os", "system", f"touch {marker}")

    with pytest.raises(Unsupported, match="holds w, which is no part of a LoRA"):
        adapter_of_xtuner(work / "iter_2.pth", emit=silent)

    assert not marker.exists()


def test_only_a_pth_that_is_there_is_xtuners(work: Path) -> None:
    assert is_xtuner_file(work / "iter_2.pth")
    assert not is_xtuner_file(work / "iter_3.pth")
    assert not is_xtuner_file(work)
