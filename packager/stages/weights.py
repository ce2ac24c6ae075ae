"""Base and adapter to GGUF files, or to a merged checkpoint: one pass over the weights, all outputs at once.

Both jobs read the same merged tensors (`weights.merged`), so that what a GGUF was made from is what `merge` writes in float32.
torch and the converter are imported when a job runs; sizes and support are answered without them.
"""

from __future__ import annotations

import ast
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from packager.artifacts import Adapter, ChatTemplate, Checkpoint, Dtype, Gguf, Quant
from packager.errors import InputInvalid
from packager.events import Emit, Noted, silent
from packager.formats.fine_tuned import fine_tuned, tokenizer_folder
from packager.formats.gguf import GgmlType, MetadataEntry, ValueType
from packager.formats.labelled_rows import LabelledRow
from packager.quants import FILE_TYPES, FLOATS
from packager.sources.llama_cpp_tree import LlamaCppTree

if TYPE_CHECKING:
    from packager.weights.checkpoint_output import CheckpointOutput
    from packager.weights.converter import Conversion
    from packager.weights.gguf_output import GgufOutput
    from packager.weights.importance import Importance
    from packager.weights.journal import FileMark, Hash, Journal, Kept
    from packager.weights.merged import MergedTensors

HF_FOLDER = "hf"
# In the folder of the output while it is written.
JOURNAL_NAME = "pass.journal"
_QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION


@dataclass(frozen=True, kw_only=True)
class KeptCheckpoint:
    """The merged checkpoint beside the GGUF files: how floats are stored, and its chat template, None for the base's own."""

    dtype: Dtype
    chat_template: str | None


@dataclass(frozen=True, kw_only=True)
class QuantizeJob:
    """What to make GGUF files from, and where.

    Attributes:
        base: The checkpoint.
        adapter: The fine-tune; None converts the base as it is.
        quants: The files to write, each once.
        template: The chat template to embed; None leaves the checkpoint's own.
        name: general.name; empty leaves what the checkpoint says of itself.
        file_stem: Files are `{file_stem}-{QUANT}.gguf`.
        output: A folder that exists; files appear in it under their name when they are complete. What a killed run of the
            same job left there is continued.
        tree: The converter.
        imatrix: An importance matrix of this model, in either of llama.cpp's formats; None without one.
        keep_hf: The merged checkpoint to write as well, below `HF_FOLDER` in `output`; None for none.
    """

    base: Checkpoint
    adapter: Adapter | None
    quants: tuple[Quant, ...]
    template: ChatTemplate | None
    name: str
    file_stem: str
    output: Path
    tree: LlamaCppTree
    imatrix: Path | None = None
    keep_hf: KeptCheckpoint | None = None


def quantize(job: QuantizeJob, *, emit: Emit = silent, threads: int | None = None) -> tuple[Gguf, ...]:
    """Write every GGUF of a job in one pass over the weights.

    Killed or interrupted, it leaves unfinished files and a journal in the output folder, and the same call continues there.

    Args:
        job: What to write.
        emit: Told how many of all output bytes are written.
        threads: Threads that convert; by default one for each core. The bytes do not depend on it.

    Returns:
        The files, in the order of `job.quants`, with their sha256.

    Raises:
        InputInvalid: A value is not finite, or does not fit; the tensor is named. The importance matrix is another model's.
            No file is left.
        Usage: A quant needs an importance matrix, and there is none.
        Unsupported: llama.cpp does not know the architecture.
        NoSpace: The disk is full.
        ToolMissing: llama-cpp-python or the converter is not usable.
    """
    import torch

    from packager.weights.converter import Conversion
    from packager.weights.gguf_output import HeaderDiffers, partial_path
    from packager.weights.importance import importance_for
    from packager.weights.journal import Journal
    from packager.weights.merged import MergedTensors, single_threaded_torch

    with (
        single_threaded_torch(),
        torch.inference_mode(),
        MergedTensors(job.base, job.adapter) as merged,
        _kept_checkpoint(job, merged) as checkpoint,
    ):
        conversion = Conversion(job.base, merged, job.tree)
        journal = Journal(job.output / JOURNAL_NAME)
        paths = [job.output / gguf_name(job.file_stem, quant) for quant in job.quants]
        for path in paths:
            if journal.exists() and path.is_file():  # killed between the first file's name and the last's
                path.replace(partial_path(path))
        run = _Pass(
            job=job,
            conversion=conversion,
            merged=merged,
            importance=importance_for(job.imatrix, [(tensor.name, tensor.shape) for tensor in conversion.tensors]),
            checkpoint=checkpoint,
            journal=journal,
            emit=emit,
            threads=threads,
        )
        try:
            return run.write(journal.kept(tuple(map(partial_path, paths))))
        except HeaderDiffers:
            journal.remove()
            return run.write(None)


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """One pass over the weights, from the start or from where another was interrupted."""

    job: QuantizeJob
    conversion: Conversion
    merged: MergedTensors
    importance: Importance | None
    checkpoint: CheckpointOutput | None
    journal: Journal
    emit: Emit
    threads: int | None

    def write(self, kept: Kept | None) -> tuple[Gguf, ...]:
        from packager.cores import usable_cores
        from packager.weights.gguf_metadata import with_template
        from packager.weights.journal import START
        from packager.weights.output_types import output_types
        from packager.weights.stream import BlockStream
        from packager.weights.writing import OutputWriter, Progress, left_or_removed

        job, conversion, importance = self.job, self.conversion, self.importance
        types = output_types(conversion, job.quants, importance)

        def wanted(name: str) -> frozenset[GgmlType]:
            return frozenset(types[quant][name] for quant in job.quants)

        start = kept.mark.position if kept is not None else START
        outputs: list[GgufOutput] = []
        with (
            left_or_removed(outputs, self.journal),
            BlockStream(
                conversion.tensors, self.merged, wanted, self.threads or usable_cores(), start, importance
            ) as stream,
        ):
            # The kernels are at work from here on, while the tokenizer is read.
            metadata = with_template(conversion.metadata(job.name), job.template)
            for number, quant in enumerate(job.quants):
                mark = None if kept is None else (kept.mark.files[number], kept.hashes[number])
                keys = importance.metadata() if importance is not None and quant not in FLOATS else ()
                outputs.append(_output(job, quant, metadata + keys, conversion, types[quant], mark))
            total, done = sum(o.data_bytes for o in outputs), sum(o.data_bytes_before(start) for o in outputs)
            if kept is not None:
                text = f"continues what was interrupted: {done / 1e9:.2f} of {total / 1e9:.2f} GB are there"
                self.emit(Noted(stage="quantize", text=text))
            self._note_what_is_large()
            progress = Progress("quantize", total, self.emit, done)
            with OutputWriter(outputs, self.journal, progress.advance) as writer:
                for block in stream:
                    writer.write(block)
                _finish_checkpoint(job, self.checkpoint)
                return writer.finish()

    def _note_what_is_large(self) -> None:
        from packager.weights.computed_rows import whole_bytes
        from packager.weights.memory import CACHE_BYTES

        sizes = {tensor.name: whole_bytes(tensor.graph) for tensor in self.conversion.tensors}
        name = max(sizes, key=lambda name: sizes[name])
        if sizes[name] > CACHE_BYTES:
            text = f"{name} can only be computed whole, which takes {sizes[name] / 1e9:.1f} GB more memory than planned"
            self.emit(Noted(stage="quantize", text=text, warning=True))


def _kept_checkpoint(job: QuantizeJob, merged: MergedTensors) -> AbstractContextManager[CheckpointOutput | None]:
    """Open the merged checkpoint, which takes every block that the pass reads."""
    from packager.weights.checkpoint_output import CheckpointOutput

    if job.keep_hf is None:
        return nullcontext()
    folder = job.output / HF_FOLDER
    folder.mkdir(exist_ok=True)
    return CheckpointOutput(merged, job.keep_hf.dtype, folder)


def _finish_checkpoint(job: QuantizeJob, checkpoint: CheckpointOutput | None) -> None:
    from packager.weights.checkpoint_files import write_checkpoint_files

    if checkpoint is not None and job.keep_hf is not None:
        checkpoint.finish()
        write_checkpoint_files(
            job.base, job.keep_hf.dtype, job.keep_hf.chat_template, job.output / HF_FOLDER, adapter=job.adapter
        )


@dataclass(frozen=True, kw_only=True)
class MergeJob:
    """What to merge, and where: `output` exists and is empty, `dtype` is how floats are stored.

    `chat_template` is written in both places it is read from; None keeps the base's own.
    """

    base: Checkpoint
    adapter: Adapter | None
    dtype: Dtype
    output: Path
    chat_template: str | None


def merge(job: MergeJob, *, emit: Emit = silent) -> tuple[Path, ...]:
    """Write the merged checkpoint: weights in files of at most 5 GB, configuration, tokenizer, template.

    The sum is taken in float32 and rounded to nearest even where `dtype` is smaller.

    Returns:
        The files.

    Raises:
        InputInvalid: A value is not finite, or `dtype` does not hold it; the tensor is named.
        NoSpace: The disk is full.
    """
    import torch

    from packager.weights.checkpoint_files import write_checkpoint_files
    from packager.weights.checkpoint_output import planned_tensors, write_checkpoint_weights
    from packager.weights.merged import MergedTensors, single_threaded_torch
    from packager.weights.writing import Progress

    with single_threaded_torch(), torch.inference_mode(), MergedTensors(job.base, job.adapter) as merged:
        total = sum(tensor.size_bytes for tensor in planned_tensors(merged, job.dtype))
        progress = Progress("merge", total, emit)
        weights = write_checkpoint_weights(merged, job.dtype, job.output, advance=progress.advance)
    files = write_checkpoint_files(job.base, job.dtype, job.chat_template, job.output, adapter=job.adapter)
    return (*weights, *files)


def estimate(
    base: Checkpoint, adapter: Adapter | None, quants: tuple[Quant, ...], *, importance: bool = False
) -> tuple[tuple[Quant, int], ...]:
    """Give the expected size of each GGUF in bytes, within 5 %; of an adapter, only a changed vocabulary or tie matters.

    Raises:
        Usage: A quant needs an importance matrix, and there is none.
        Unsupported: llama.cpp cannot write the model in that type.
        ToolMissing: llama-cpp-python is not installed.
    """
    from packager.weights.sizes import estimated_sizes

    return estimated_sizes(fine_tuned(base, adapter), quants, importance=importance)


def checkpoint_bytes(base: Checkpoint, dtype: Dtype) -> int:
    """Give the size of the merged checkpoint's tensors in bytes."""
    from packager.weights.sizes import stored_bytes

    return sum(stored_bytes(tensor, dtype) for tensor in base.tensors)


@dataclass(frozen=True, kw_only=True)
class CalibrateJob:
    """An importance matrix to compute.

    Attributes:
        pass_through: The model, as it is quantized; its `quants` are not written.
        rows: Conversations with the answers they expect, rendered with `chat_template`.
        chat_template: The canonical text.
        dataset: What the matrix says it was computed on.
        output: The file to write, in a folder that also holds the model in float16 meanwhile.
    """

    pass_through: QuantizeJob
    rows: tuple[LabelledRow, ...]
    chat_template: str
    dataset: str
    output: Path


def calibrate(job: CalibrateJob, *, emit: Emit = silent) -> Path:
    """Compute an importance matrix with llama.cpp from conversations, and give the file.

    Raises:
        InputInvalid: A row cannot be rendered, there is too little text, or an activation is not finite.
        Unsupported: llama.cpp cannot evaluate the model.
    """
    from packager.chat.calibration_texts import rendered
    from packager.weights.calibration import calibrate as compute

    tokenizer = tokenizer_folder(job.pass_through.base, job.pass_through.adapter)
    texts = rendered(job.rows, job.chat_template, tokenizer)
    temporary = replace(job.pass_through, quants=(Quant.F16,), imatrix=None, keep_hf=None)
    (f16,) = quantize(temporary, emit=emit)
    try:
        compute(f16.path, texts, job.output, dataset=job.dataset, emit=emit)
    finally:
        f16.path.unlink(missing_ok=True)
    return job.output


def peak_memory_bytes(base: Checkpoint, output_bytes: int) -> int:
    """Give the most memory that `quantize` is expected to hold while it writes so many bytes."""
    from packager.weights.memory import estimated_peak_memory

    return estimated_peak_memory(base, output_bytes)


def supported_architecture(base: Checkpoint, tree: LlamaCppTree) -> bool:
    """Whether the converter has a class for the base's architecture; its code is read, not run.

    Raises:
        InputInvalid: The tree's table of architectures cannot be read.
    """
    path = tree.path / "conversion" / "__init__.py"
    try:
        module = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        hint = "Name the root of a llama.cpp source tree."
        raise InputInvalid(f"{path}: cannot be read ({error})", hint=hint) from error
    for node in module.body:
        match node:
            case ast.AnnAssign(target=ast.Name(id="TEXT_MODEL_MAP"), value=ast.Dict(keys=keys)):
                return any(isinstance(key, ast.Constant) and key.value == base.architecture for key in keys)
    raise InputInvalid(f"{path}: has no TEXT_MODEL_MAP", hint="Use a llama.cpp tree with a conversion package.")


def gguf_name(file_stem: str, quant: Quant) -> str:
    """Give the file name of a GGUF: `name-Q4_K_M.gguf`."""
    return f"{file_stem}-{quant.value.upper()}.gguf"


def _output(
    job: QuantizeJob,
    quant: Quant,
    metadata: tuple[MetadataEntry, ...],
    conversion: Conversion,
    types: dict[str, GgmlType],
    kept: tuple[FileMark, Hash] | None,
) -> GgufOutput:
    from packager.weights.gguf_output import GgufOutput

    # llama.cpp's quantizer removes these two and appends them again; so they stand last in a file that COPY keeps.
    numbers = {"general.quantization_version": _QUANTIZATION_VERSION, "general.file_type": FILE_TYPES[quant]}
    last = [MetadataEntry(key=key, type=ValueType.UINT32, value=number) for key, number in numbers.items()]
    entries = [*(entry for entry in metadata if entry.key not in numbers), *last]
    tensors = [(tensor.name, tensor.shape, types[tensor.name]) for tensor in conversion.tensors]
    return GgufOutput(job.output / gguf_name(job.file_stem, quant), quant, entries, tensors, kept)
