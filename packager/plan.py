"""What a build would do: reads everything, decides everything, lists every problem at once, writes nothing."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from packager.artifacts import Adapter, Checkpoint, Quant
from packager.durable import UNFINISHED
from packager.errors import InputInvalid, NoSpace, PackagerError, PlanRefused, Unsupported, Usage
from packager.events import Emit, silent
from packager.formats.adapter import read_adapters
from packager.formats.build_folder import IMATRIX_NAME
from packager.formats.checkpoint import folder_name, read_checkpoint
from packager.formats.fine_tuned import fine_tuned
from packager.formats.labelled_rows import LabelledRow, read_labelled_rows
from packager.formats.model_name import DEFAULT_TAG, ModelName
from packager.sources.hub_origin import hub_origin
from packager.sources.llama_cpp_tree import LlamaCppTree, cached_tree
from packager.stages.templates import TemplateResult, TemplatesJob, make_template
from packager.stages.weights import (
    HF_FOLDER,
    checkpoint_bytes,
    estimate,
    gguf_name,
    peak_memory_bytes,
    supported_architecture,
)
from packager.weights.sizes import INDEX_NAME, MAX_SHARD_BYTES

T = TypeVar("T")
_SMALL_FILES_BYTES = 4 << 20  # template, Modelfile, report, receipts


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What the user asked for, as typed. `adapter` is None for a full fine-tune, `name` None to register nothing.

    `more_adapters` are merged after `adapter`, in order; `dequantize_base` takes a base in 4 bits.
    """

    base: Path
    adapter: Path | None
    output: Path
    quants: tuple[Quant, ...]
    name: str | None = None
    template_file: str | None = None
    llama_cpp: Path | None = None
    register: bool = True
    verify: bool = True
    replace: bool = False
    data: Path | None = None
    data_rows: int = 16
    reference_memory_bytes: int | None = None
    more_adapters: tuple[Path, ...] = ()
    dequantize_base: bool = False
    imatrix: Path | None = None
    calibrate: Path | None = None
    keep_hf: bool = False

    @property
    def adapters(self) -> tuple[Path, ...]:
        """All adapters, in order."""
        return (*(() if self.adapter is None else (self.adapter,)), *self.more_adapters)


@dataclass(frozen=True, kw_only=True)
class PlannedFile:
    """A file a build would write, with its expected size."""

    name: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class PlanSummary:
    """A plan without the tensor lists: what `packager plan` prints.

    Attributes:
        files: The GGUF files, sizes within 5 %.
        peak_disk_bytes: Most that the build folder grows by while building.
        free_disk_bytes: What the disk of the build folder has now.
        peak_memory_bytes: Most memory the weights pass takes, imports included.
        template: Where the chat template comes from.
        stops: Text that ends an answer.
        names: What would be registered in Ollama.
        notes: What the user may want to know before starting.
    """

    base: str
    architecture: str
    adapter: str | None
    updates: int
    files: tuple[PlannedFile, ...]
    peak_disk_bytes: int
    free_disk_bytes: int
    peak_memory_bytes: int
    template: str
    stops: tuple[str, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything a build needs, decided."""

    request: BuildRequest
    base: Checkpoint
    adapter: Adapter | None
    name: ModelName | None
    file_stem: str
    template: TemplateResult
    data: tuple[LabelledRow, ...]
    calibration: tuple[LabelledRow, ...]
    summary: PlanSummary


def make_plan(request: BuildRequest) -> Plan:
    """Decide a build, or say everything that stands in its way.

    Raises:
        PlanRefused: With every problem found, not only the first.
    """
    problems: list[PackagerError] = []
    base = _attempt(problems, lambda: read_checkpoint(readable_base(request.base, dequantize=request.dequantize_base)))
    adapter = None
    if base is not None and request.adapters:
        adapter = _attempt(problems, lambda: read_adapters(request.adapters, base))
    tree = _attempt(problems, lambda: cached_tree(request.llama_cpp))
    typed = request.name
    name = _attempt(problems, lambda: build_name(typed)) if typed is not None else None
    _attempt(problems, lambda: _check_output(request.output))
    file = request.data
    data = _attempt(problems, lambda: read_labelled_rows(file, limit=request.data_rows)) if file is not None else ()
    calibration = _attempt(problems, lambda: _calibration(request))
    if base is None:
        raise PlanRefused(tuple(problems))
    if tree is not None:
        _attempt(problems, lambda: _check_architecture(base, tree))
    template = None
    if adapter is not None or not request.adapters:
        job = TemplatesJob(base=base, adapter=adapter, template_file=request.template_file)
        template = _attempt(problems, lambda: make_template(job))
    stem = _file_stem(name, base, adapter)
    files = _attempt(problems, lambda: _files(request, base, adapter, stem)) or ()
    meanwhile = _attempt(problems, lambda: _temporary_bytes(request, base, adapter)) or 0
    needed, free = _disk(request.output, files, meanwhile)
    if needed > free:
        problems.append(_no_space(request.output, needed, free))
    if problems or template is None or data is None or calibration is None:
        raise PlanRefused(tuple(problems))
    summary = PlanSummary(
        base=base.name,
        architecture=base.architecture,
        adapter=" + ".join(map(folder_name, adapter.folders)) if adapter else None,
        updates=len(adapter.targets) if adapter else 0,
        files=files,
        peak_disk_bytes=needed,
        free_disk_bytes=free,
        peak_memory_bytes=peak_memory_bytes(fine_tuned(base, adapter), sum(file.size_bytes for file in files)),
        template=template.template.source,
        stops=template.template.stops,
        names=_names(request, name),
        notes=(*_origins(base, adapter), *_notes(tree, adapter), *template.notes),
    )
    return Plan(
        request=request,
        base=base,
        adapter=adapter,
        name=name,
        file_stem=stem,
        template=template,
        data=data,
        calibration=calibration,
        summary=summary,
    )


def readable_base(folder: Path, *, dequantize: bool, emit: Emit = silent) -> Path:
    """Give the folder of a base, or that of its 16 bits in the cache where it is to be dequantized."""
    if not dequantize:
        return folder
    from packager.weights.dequantized_base import dequantized_base

    return dequantized_base(folder, emit=emit)


def _calibration(request: BuildRequest) -> tuple[LabelledRow, ...]:
    """Read the conversations that an importance matrix is computed from; check the one that is there already."""
    if request.imatrix is not None and request.calibrate is not None:
        raise Usage("--imatrix and --calibrate both give an importance matrix", hint="Pass one of them.")
    if request.imatrix is not None and not request.imatrix.is_file():
        raise InputInvalid(f"{request.imatrix}: no such file", hint="Make one with llama-imatrix, or pass --calibrate.")
    return read_labelled_rows(request.calibrate) if request.calibrate is not None else ()


def _files(request: BuildRequest, base: Checkpoint, adapter: Adapter | None, stem: str) -> tuple[PlannedFile, ...]:
    weighed = request.imatrix is not None or request.calibrate is not None
    files = [
        PlannedFile(name=gguf_name(stem, quant), size_bytes=size)
        for quant, size in estimate(base, adapter, request.quants, importance=weighed)
    ]
    if request.keep_hf:
        size = checkpoint_bytes(fine_tuned(base, adapter), base.dtype)
        name = "model.safetensors" if size <= MAX_SHARD_BYTES else INDEX_NAME
        files.append(PlannedFile(name=f"{HF_FOLDER}/{name}", size_bytes=size))
    return tuple(files)


def _temporary_bytes(request: BuildRequest, base: Checkpoint, adapter: Adapter | None) -> int:
    """Give the size of the float16 file that an importance matrix is computed with, before the others are written."""
    if request.calibrate is None or (request.output / IMATRIX_NAME).is_file():
        return 0
    ((_, size),) = estimate(base, adapter, (Quant.F16,))
    return size


def build_name(text: str) -> ModelName:
    """Read NAME: a name whose tags are free, because each quant becomes one.

    Raises:
        Usage: Ollama would refuse it, or it has a tag.
    """
    name = ModelName.parse(text)
    if name.tag != DEFAULT_TAG:
        raise Usage(
            f"--name {text} has the tag {name.tag}, and each quant becomes a tag",
            hint=f"Use --name {text.removesuffix(':' + name.tag)}.",
        )
    return name


def size_label(base: Checkpoint) -> str:
    """Give the parameter count as the GGUF naming convention writes it: `135M`, `1.5B`. Tied tensors count once."""
    count = sum(math.prod(entry.shape) for entry in base.tensors)
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6)):
        if count >= size:
            value = count / size
            return f"{value:.1f}{unit}" if unit != "M" and value < 10 else f"{value:.0f}{unit}"
    return f"{max(1, round(count / 1000))}K"


def _file_stem(name: ModelName | None, base: Checkpoint, adapter: Adapter | None) -> str:
    stem = name.model if name is not None else (adapter.name if adapter is not None else base.name)
    stem = "".join(c if c.isalnum() or c in "._-" else "-" for c in stem).strip("-.") or "model"
    label = size_label(base)
    return stem if label.lower() in stem.lower() else f"{stem}-{label}"


def _names(request: BuildRequest, name: ModelName | None) -> tuple[str, ...]:
    if name is None or not request.register:
        return ()
    return (*(str(name.with_tag(quant.value)) for quant in request.quants), str(name))


def _notes(tree: LlamaCppTree | None, adapter: Adapter | None) -> tuple[str, ...]:
    notes = []
    if tree is None:
        notes.append("llama.cpp's converter is fetched by the build; whether it knows the architecture: not checked")
    if adapter is None:
        notes.append("no adapter: the base is packaged as it is")
    elif adapter.output_layer is not None:
        notes.append(f"{adapter.output_layer.name} is no longer tied to the embedding: only one of them was trained")
    return tuple(notes)


def _origins(base: Checkpoint, adapter: Adapter | None) -> tuple[str, ...]:
    """Say which commit on a hub the inputs are, where their folders show it."""
    folders = [("base", base.folder), *(("adapter", folder) for folder in (adapter.folders if adapter else ()))]
    return tuple(f"{what} from {origin}" for what, folder in folders if (origin := hub_origin(folder)) is not None)


def _check_architecture(base: Checkpoint, tree: LlamaCppTree) -> None:
    if not supported_architecture(base, tree):
        raise Unsupported(
            f"{base.folder / 'config.json'}: llama.cpp {tree.version} does not know the architecture {base.architecture}",
            hint="Pass --llama-cpp DIR with a newer llama.cpp source tree.",
        )


def _check_output(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise InputInvalid(f"{output} is a file, not a folder", hint="Pass another -o DIR.")
    if not output.name and output.resolve() == Path(output.anchor):
        raise Usage("the build folder cannot be the root folder", hint="Pass -o DIR.")


def _disk(output: Path, files: tuple[PlannedFile, ...], meanwhile: int) -> tuple[int, int]:
    """Give bytes still to write and bytes free: a file that is already there in full is replaced only if it is stale.

    What a killed build left unfinished is continued or removed, so its bytes are not needed again; those of a file with holes
    are fewer than its size. `meanwhile` is what is written first, and gone before the files are begun.
    """
    needed = sum(file.size_bytes for file in files if not (output / file.name).is_file())
    unfinished = sum(path.stat().st_blocks * 512 for path in (output / UNFINISHED).rglob("*") if path.is_file())
    needed = _SMALL_FILES_BYTES + max(meanwhile, needed - unfinished, 0)
    existing = output.absolute()
    while not existing.is_dir():
        existing = existing.parent
    return needed, shutil.disk_usage(existing).free


def _no_space(output: Path, needed: int, free: int) -> NoSpace:
    return NoSpace(
        f"{output}: the build needs {needed / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB free",
        hint="Choose fewer quants (--quant q4_k_m) or another disk (-o DIR).",
    )


def _attempt(problems: list[PackagerError], action: Callable[[], T]) -> T | None:
    try:
        return action()
    except PackagerError as error:
        problems.append(error)
        return None
