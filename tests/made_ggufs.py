"""GGUF files for tests, made by the stages that make them for users."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from packager.artifacts import Adapter, ChatTemplate, Checkpoint, Gguf, Quant
from packager.durable import FileDigest, sha256_file
from packager.formats.adapter import read_adapter
from packager.formats.checkpoint import read_checkpoint
from packager.formats.model_files import model_files
from packager.sources.llama_cpp_tree import find_tree
from packager.stages.templates import TemplatesJob, make_template
from packager.stages.weights import QuantizeJob, quantize


@dataclass(frozen=True, kw_only=True)
class Made:
    """What was made, and from what."""

    base: Checkpoint
    adapter: Adapter | None
    template: ChatTemplate
    ggufs: tuple[Gguf, ...]

    @cached_property
    def inputs(self) -> tuple[FileDigest, ...]:
        """Name, size and digest of every file of base and adapter."""
        files = model_files(self.base, self.adapter)
        return tuple(FileDigest(name=f.name, size_bytes=f.stat().st_size, sha256=sha256_file(f)) for f in files)

    def gguf(self, quant: Quant) -> Gguf:
        return next(gguf for gguf in self.ggufs if gguf.quant is quant)


def make_ggufs(base_folder: Path, adapter_folder: Path | None, quants: tuple[Quant, ...], output: Path) -> Made:
    """Write one GGUF for each quant into `output`, with the canonical template."""
    base = read_checkpoint(base_folder)
    adapter = read_adapter(adapter_folder, base) if adapter_folder is not None else None
    template = make_template(TemplatesJob(base=base, adapter=adapter, template_file=None)).template
    output.mkdir(parents=True, exist_ok=True)
    job = QuantizeJob(
        base=base,
        adapter=adapter,
        quants=quants,
        template=template,
        name="",
        file_stem="test",
        output=output,
        tree=find_tree(None),
    )
    return Made(base=base, adapter=adapter, template=template, ggufs=quantize(job))
