"""The command that mends each fault, and the Modelfile that mends those which are not in the weights' file.

Nothing here changes anything: a Modelfile is a text, and the commands are for the user.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from packager.artifacts import Modelfile, OllamaParameters, Quant
from packager.chat.ollama_choice import PromptSource, predict_choice
from packager.doctor.case import Patient, Reference
from packager.doctor.context import wanted_context
from packager.doctor.finding import Finding, Organ, Remedy
from packager.doctor.prompts import Prompts
from packager.engines.ollama_replies import Parameter, StoredModel
from packager.errors import InputInvalid
from packager.formats.build_folder import MODELFILE_NAME
from packager.formats.model_name import DEFAULT_TAG, ModelName
from packager.formats.modelfile import PLAIN_SKELETON, render_modelfile
from packager.quants import FLOATS, NEED_IMPORTANCE, quant_of_file_type

_ABOUT = "# Written by packager doctor: what is mended, and the rest as it was."
_PROMPTS = (Organ.TEMPLATE, Organ.SYSTEM, Organ.BOS)
_SAMPLING = {"temperature": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p",
             "repeat_penalty": "repetition_penalty"}  # fmt: skip
# What decides an answer's stops, context and draws: not carried over where it is at fault.
_OURS = ("stop", "num_ctx", *_SAMPLING)


@dataclass(frozen=True, kw_only=True)
class Prescription:
    """The findings with their commands, and the text of the Modelfile, None where it mends nothing."""

    findings: tuple[Finding, ...]
    modelfile: str | None


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a prescription depends on.

    Attributes:
        findings: What is at fault.
        patient: The model.
        reference: What it should be.
        prompts: What the model is fed, None where that was not looked at.
        lengths: Length in tokens of each of the user's own prompts.
    """

    findings: tuple[Finding, ...]
    patient: Patient
    reference: Reference
    prompts: Prompts | None = None
    lengths: tuple[int, ...] = ()

    def has(self, *organs: Organ) -> bool:
        """Whether one of these is at fault."""
        return any(finding.organ in organs for finding in self.findings)


def prescribe(case: Case, folder: Path | None) -> Prescription:
    """Say what mends each finding; a build mends everything, so where one is needed nothing else is named.

    Args:
        case: The findings and what they are about.
        folder: Where the Modelfile goes; None for one that the user still has to name.
    """
    text = _modelfile(case)
    if text is None or any(finding.remedy is Remedy.REBUILD for finding in case.findings):
        command = _build(case)
        rebuilt = tuple(replace(finding, remedy=Remedy.REBUILD, mend=command) for finding in case.findings)
        return Prescription(findings=rebuilt, modelfile=None)
    path = (folder or Path("DIR")) / MODELFILE_NAME
    command = shlex.join(["ollama", "create", case.patient.name, "-f", str(path)])
    command += "" if folder is not None else "   # once packager doctor ... -o DIR has written it"
    return Prescription(findings=tuple(replace(finding, mend=command) for finding in case.findings), modelfile=text)


def _build(case: Case) -> str:
    """Give the build that makes the model anew under its name, with the type nearest to the one it has."""
    patient, reference = case.patient, case.reference
    template = [] if reference.template_file is None else ["--template", reference.template_file]
    quant = _nearest(patient)
    if patient.stored is None:
        output = f"{Path(patient.name).stem}-mended"
        tail = ["-o", output, "--quant", quant.value, "--no-register", *template]
        return f"packager build {reference.words} {shlex.join(tail)}"
    name = ModelName.parse(patient.name)
    ours = name.tag in (DEFAULT_TAG, *Quant)
    if name.tag in list(Quant):
        quant = Quant(name.tag)
        template += ["--calibrate", "DATA.jsonl"] if quant in NEED_IMPORTANCE else []
    bare = str(name.with_tag(DEFAULT_TAG)).removesuffix(f":{DEFAULT_TAG}")
    wanted = bare if ours else f"{bare}-{name.tag}"
    tail = ["-o", f"{name.model}-mended", "--quant", quant.value, "--name", wanted, "--replace", *template]
    build = f"packager build {reference.words} {shlex.join(tail)}"
    # Ollama takes no bytes for a blob that it has: the bad ones have to go first.
    corrupt = any(finding.code == "BLOB_CORRUPT" for finding in case.findings)
    return f"{shlex.join(['ollama', 'rm', patient.name])} && {build}" if corrupt else build


def _nearest(patient: Patient) -> Quant:
    """Give the default type nearest to the one it has: a build needs no importance matrix for those."""
    quant = quant_of_file_type(patient.value("general.file_type"))
    if quant in FLOATS:
        return Quant.F16
    return Quant.Q8_0 if quant in (Quant.Q8_0, Quant.Q6_K) else Quant.Q4_K_M


def _modelfile(case: Case) -> str | None:
    """Give the Modelfile, None where there is no model in Ollama, no file of it here, or none that would do."""
    stored, source = case.patient.stored, _from(case.patient)
    if not case.findings or stored is None or source is None or stored.adapted:
        return None
    template = _template(case, stored)
    if isinstance(template, _Impossible):
        return None
    carried = [
        f"PARAMETER {name} {_written(value)}"
        for name, values in stored.parameters
        if name not in _OURS and not (name == "num_predict" and case.has(Organ.SAMPLING))
        for value in values
    ]
    system = [] if case.has(Organ.SYSTEM) or not stored.system else [stored.system]
    skeleton = PLAIN_SKELETON.replace(
        "FROM $gguf\n", f"{_ABOUT}\nFROM {source}\n" + "".join(f"{line}\n" for line in carried)
    )
    model = Modelfile(
        gguf="", parameters=_parameters(case, stored), license_text=stored.license_text or None, template=template
    )
    try:
        text = render_modelfile(model, skeleton)
    except InputInvalid:
        return None
    if "# Not carried" in text or (system and '"""' in system[0]):
        return None
    return text + "".join(f'\nSYSTEM """{each}"""\n' for each in system)


class _Impossible:
    """No TEMPLATE makes this Ollama build training's prompts from this file."""


def _template(case: Case, stored: StoredModel) -> str | _Impossible | None:
    """Give the TEMPLATE of the mended model: the one it has, or the solved Go form where prompts are at fault.

    Without a TEMPLATE Ollama could attach one of its own again, so the Go form is written even where the GGUF's is right.
    """
    prompts = [finding for finding in case.findings if finding.organ in _PROMPTS and finding.code != "FIRST_TURNS"]
    server, reference, fed = case.patient.server, case.reference, case.prompts
    if not prompts:
        return stored.template if stored.template_source == "template" else None
    only_system = bool(stored.system) and all(finding.organ is Organ.SYSTEM for finding in prompts)
    if only_system and stored.template_source == "gguf" and fed is not None and fed.own_template:
        return None  # what SYSTEM hides is training's own default
    go = _go_template(case)
    if go is None or fed is None or server is None or stored.renderer is not None:
        return _Impossible()
    own = case.patient.value("tokenizer.chat_template")
    jinja = own if isinstance(own, str) else None
    choice = predict_choice(server.version, architecture=reference.base.architecture, jinja=jinja, go=go)
    if choice.source is PromptSource.GO or (choice.source is PromptSource.JINJA and fed.own_template):
        return go
    return _Impossible()


def _go_template(case: Case) -> str | None:
    """Give the Go form, with BOS in front where training had it and this file's tokenizer does not add it; None for none."""
    go, template = case.reference.found.go.text, case.reference.found.template
    if go is None or case.prompts is None or not template.adds_bos or case.prompts.adds_bos:
        return go
    return None if case.prompts.adds_bos is None else f"{case.prompts.bos}{go}"


def _parameters(case: Case, stored: StoredModel) -> OllamaParameters:
    """Keep what is stored, but for what is at fault, which gets the reference's value."""
    base, template = case.reference.base, case.reference.found.template
    kept = dict(stored.parameters)
    values = {name: _number(kept.get(name, ())) for name in _SAMPLING}
    for name, theirs in _SAMPLING.items():
        recorded = getattr(base.sampling, theirs)
        if case.has(Organ.SAMPLING) and recorded is not None:
            values[name] = recorded
    stops = tuple(str(value) for value in kept.get("stop", ()))
    if case.has(Organ.STOP, Organ.TEMPLATE):
        stops = template.stops
    context = _number(kept.get("num_ctx", ()))
    if case.has(Organ.CONTEXT) and base.context_tokens is not None:
        context = float(wanted_context(base.context_tokens, case.lengths))
    return OllamaParameters(
        stop=stops,
        num_ctx=None if context is None else int(context),
        temperature=values["temperature"],
        top_k=None if values["top_k"] is None else int(values["top_k"]),
        top_p=values["top_p"],
        min_p=values["min_p"],
        repeat_penalty=values["repeat_penalty"],
    )


def _from(patient: Patient) -> str | None:
    """Give the weights' place as FROM takes it."""
    path = str(patient.file) if patient.file is not None else ""
    return path if path and re.fullmatch(r"[\x21-\x7e]+", path) else None


def _number(values: tuple[Parameter, ...]) -> float | None:
    return float(values[0]) if values and isinstance(values[0], float) else None


def _written(value: Parameter) -> str:
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return f'"{value}"'
