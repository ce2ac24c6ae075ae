from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from packager.errors import ToolMissing
from packager.weights import llama_library as module
from packager.weights.llama_library import QuantizeParameters, llama_library


@pytest.fixture
def uncached() -> object:
    llama_library.cache_clear()
    yield None
    llama_library.cache_clear()


def test_the_parameters_have_the_layout_of_the_installed_version() -> None:
    import llama_cpp

    theirs = llama_cpp.llama_model_quantize_params
    assert ctypes.sizeof(QuantizeParameters) == ctypes.sizeof(theirs)
    for name, _ in theirs._fields_:
        ours, other = getattr(QuantizeParameters, name), getattr(theirs, name)
        assert (ours.offset, ours.size) == (other.offset, other.size), name
    made, expected = llama_library().default_parameters(), llama_cpp.llama_model_quantize_default_params()
    assert (made.ftype, made.output_tensor_type, made.max_buf_size) == (
        expected.ftype,
        expected.output_tensor_type,
        expected.max_buf_size,
    )


def test_without_llama_cpp_python_the_hint_installs_it(monkeypatch: pytest.MonkeyPatch, uncached: object) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolMissing, match="llama-cpp-python is not installed") as caught:
        llama_library()
    assert "ollama-packager[build]" in caught.value.hint


def test_a_broken_installation_is_named(monkeypatch: pytest.MonkeyPatch, uncached: object, tmp_path: Path) -> None:
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ToolMissing, match="libllama"):
        llama_library()
    (tmp_path / "lib").mkdir()
    for name in ("llama", "ggml-base"):
        (tmp_path / "lib" / f"lib{name}.so").write_bytes(b"not a library")
    with pytest.raises(ToolMissing, match=str(tmp_path)):
        llama_library()


def test_the_log_goes_back_to_whoever_had_it(monkeypatch: pytest.MonkeyPatch) -> None:
    library = llama_library()
    mine = ctypes.cast(module._LOG_CALLBACK(lambda level, text, data: None), ctypes.c_void_p)
    before, data = ctypes.c_void_p(), ctypes.c_void_p()
    library.log_get(ctypes.byref(before), ctypes.byref(data))
    library.log_set(mine, None)
    try:
        with library.quiet():
            inside, found = ctypes.c_void_p(), ctypes.c_void_p()
            library.log_get(ctypes.byref(inside), ctypes.byref(data))
            assert inside.value != mine.value
        library.log_get(ctypes.byref(found), ctypes.byref(data))
        assert found.value == mine.value
    finally:
        library.log_set(before, data)
