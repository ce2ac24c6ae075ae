"""The two sides of an examination: the model that is there, and the base and adapter that it should be."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from packager.artifacts import Adapter, Checkpoint
from packager.chat.probes import core_probes
from packager.engines.ollama import OllamaServer
from packager.engines.ollama_replies import StoredModel
from packager.engines.tokenizer import TokenizerReference
from packager.errors import InputInvalid, PackagerError, Usage
from packager.events import Emit
from packager.formats.adapter import read_adapter
from packager.formats.checkpoint import read_checkpoint
from packager.formats.fine_tuned import tokenizer_folder
from packager.formats.gguf import GgufHeader, MetadataEntry, Scalar, read_gguf
from packager.formats.model_name import ModelName
from packager.formats.tokenizer import TokenizerFacts, read_tokenizer
from packager.sources.llama_cpp_tree import find_tree
from packager.stages.templates import TemplateResult, TemplatesJob, make_template
from packager.weights.vocabulary import VocabularyReader

Ids = tuple[int, ...]

# Where an installed Ollama keeps its store: the user's own, and that of the Linux service.
_STORES = (Path("~/.ollama/models"), Path("/usr/share/ollama/.ollama/models"))


@dataclass(frozen=True, kw_only=True)
class Patient:
    """The model that is examined.

    Attributes:
        name: Its name in Ollama with its tag, or the file's path.
        stored: What Ollama says of it, None for a file.
        server: The server that has it, None for a file.
        file: The file with its weights, None where it cannot be read here.
        no_file: Why there is none.
        header: The file's header, None where there is no file or its header is damaged.
        damage: What is wrong with the header, empty when it was read.
    """

    name: str
    stored: StoredModel | None = None
    server: OllamaServer | None = None
    file: Path | None = None
    no_file: str = ""
    header: GgufHeader | None = None
    damage: str = ""

    def value(self, key: str) -> Scalar | None:
        """Give a scalar of the GGUF's metadata, from the header or else from what Ollama shows of it."""
        if self.header is not None:
            found = self.header.value(key)
            return found if isinstance(found, str | int | float) else None
        shown = dict(self.stored.model_info if self.stored is not None else ()).get(key)
        return _scalar(shown) if shown is not None else None


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the model should be.

    Attributes:
        base: The base it should be made from.
        adapter: The adapter it should hold, None for the base alone.
        found: The template that it was trained with.
        tokens: The base's tokenizer.
        template_file: What the user typed behind `--template`.
        metadata: What llama.cpp's converter writes for the base: the architecture's keys and `tokenizer.*`; None where it could
            not be asked.
        no_metadata: Why not.
        ids: Token ids of the CORE prompts as transformers makes them, by conversation; None where it could not be asked.
        no_ids: Why not.
    """

    base: Checkpoint
    adapter: Adapter | None
    found: TemplateResult
    tokens: TokenizerFacts
    template_file: str | None
    metadata: tuple[MetadataEntry, ...] | None = None
    no_metadata: str = ""
    ids: Mapping[str, Ids] | None = None
    no_ids: str = ""

    @property
    def words(self) -> str:
        """BASE and ADAPTER as a command takes them, quoted for a shell."""
        folders = [self.base.folder, *(self.adapter.folders if self.adapter is not None else ())]
        return shlex.join(map(str, folders))

    @property
    def title(self) -> str:
        """Base and adapter by their names."""
        return self.base.name + (f" + {self.adapter.name}" if self.adapter is not None else "")


def read_reference(base: Path, adapter: Path | None, template_file: str | None, *, emit: Emit) -> Reference:
    """Read base and adapter, find the template that they were trained with, and ask llama.cpp's converter about the base.

    Raises:
        InputInvalid, UnsafeInput, Unsupported: As `packager plan` raises them.
    """
    checkpoint = read_checkpoint(base)
    lora = read_adapter(adapter, checkpoint) if adapter is not None else None
    with ExitStack() as stack:
        reader, missing = _converter(
            checkpoint, lora, stack, emit
        )  # the slowest part: it goes on while the template is found
        reference = Reference(
            base=checkpoint,
            adapter=lora,
            found=make_template(TemplatesJob(base=checkpoint, adapter=lora, template_file=template_file)),
            tokens=read_tokenizer(tokenizer_folder(checkpoint, lora)),
            template_file=template_file,
        )
        reference = _with_ids(reference)
        if reader is None:
            return replace(reference, no_metadata=missing)
        try:
            return replace(reference, metadata=reader.read_with_parameters())
        except PackagerError as error:
            return replace(reference, no_metadata=_with_hint(error))


def _converter(
    base: Checkpoint, adapter: Adapter | None, stack: ExitStack, emit: Emit
) -> tuple[VocabularyReader | None, str]:
    tokenizer, rows = tokenizer_folder(base, adapter), adapter.vocab_size if adapter is not None else None
    try:
        tree = find_tree(None, emit=emit)
        return stack.enter_context(VocabularyReader(base.folder, tree, tokenizer=tokenizer, vocab_size=rows)), ""
    except PackagerError as error:
        return None, _with_hint(error)


def _with_ids(reference: Reference) -> Reference:
    """Ask transformers for the token ids of the CORE prompts."""
    try:
        with TokenizerReference(
            tokenizer_folder(reference.base, reference.adapter), reference.found.template.text
        ) as tokenizer:
            asked = {probe.id: tokenizer.tokens(probe) for probe in core_probes()}
    except PackagerError as error:
        return replace(reference, no_ids=_with_hint(error))
    return replace(reference, ids={name: ids for name, ids in asked.items() if isinstance(ids, tuple)})


def read_patient(name: str, emit: Emit) -> Patient:
    """Find the model: a `.gguf` file, or a name in Ollama with its blob where this machine has it.

    Raises:
        InputInvalid: There is no such file.
        Usage: It is a folder.
        OllamaFailed: Ollama does not answer, or has no such model.
    """
    path = Path(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputInvalid(f"{name}: no such file")
        header, damage = _header(path)
        return Patient(name=name, file=path, header=header, damage=damage)
    if path.is_dir():
        raise Usage(
            f"{name}: a folder; a model in Ollama or a GGUF file is examined",
            hint=f"packager verify {name} BASE ADAPTER compares every GGUF of a build folder.",
        )
    model = ModelName.parse(name)
    server = OllamaServer.connect(minimum=(0,), emit=emit)
    stored = server.show(model)
    file, no_file = _blob(stored, server)
    header, damage = _header(file) if file is not None else (None, "")
    return Patient(
        name=str(model), stored=stored, server=server, file=file, no_file=no_file, header=header, damage=damage
    )


def _blob(stored: StoredModel, server: OllamaServer) -> tuple[Path | None, str]:
    if not server.is_local:
        return None, f"the weights are on the machine of {server.url}"
    name = f"sha256-{stored.blob_sha256}"
    named = os.environ.get("OLLAMA_MODELS")
    stores = ([Path(named)] if named else []) + [store.expanduser() for store in _STORES]
    for path in (Path(stored.blob_path), *(store / "blobs" / name for store in stores)):
        if path.name == name and os.path.isfile(path):  # noqa: PTH113  # unlike Path, also where a folder is closed to us
            return (path, "") if os.access(path, os.R_OK) else (None, f"{path} may not be read by this user")
    return None, f"no store of Ollama on this machine has the blob {name[:19]}…"


def _header(path: Path) -> tuple[GgufHeader | None, str]:
    try:
        return read_gguf(path), ""
    except InputInvalid as error:
        return None, error.message.removeprefix(f"{path}: ")


def _with_hint(error: PackagerError) -> str:
    return error.message + (f" ({error.hint})" if error.hint else "")


def _scalar(text: str) -> Scalar:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text == "True" if text in ("True", "False") else text
