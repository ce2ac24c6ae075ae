"""Which template builds a model's prompts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from packager.doctor.case import Patient

# sha256 of the Go templates that Ollama attaches on its own when a GGUF's chat template resembles one that it knows, without
# blanks at their ends. Source: ollama 0.34.0, template/*.gotmpl.
_BUILT_IN = {
    "3d8766305b70e46ec57a4e70c46402fe677b2bbe0ba23af6caf8a6b534a92e42": "alfred",
    "6ec2f422d044b6063aed75f99f974871515531959055937e4a2c6772591762ba": "alpaca",
    "3e9c19662c62ac69687769db7192eef3c40211b7cf758d67546e8ac644871761": "chatml",
    "1c4b2e51cf108dc8cdc6b1dc3bd11e4f3b575e7a1a961117bdb1229790a06fb2": "chatqa",
    "302ef988d5b063c7692f1e2ab31d7ea4b3f1434aad06b459cbb31063d00fd018": "codellama-70b-instruct",
    "922095537bc1278418b3aeff5c9bdde0c61a5c6adb7573498b09791a95044068": "command-r",
    "dbda813d9ec0509fae9670e257110123c2786f7538832a91eaef5fb258fc04ec": "falcon-instruct",
    "d9fbdfd160d291b954e1cbe6cc450804db469db3f77be591347668dc601b7734": "gemma-instruct",
    "4aa74b6f1fb4a9ef1ea3ef78cb50538fc2a1cd6489ebb533e783765088a980e0": "gemma3-instruct",
    "bda44f26790e26201e811c7aa560f38afe8cb3ba49778e340a0daa8b3a2ff1ee": "granite-instruct",
    "3f74e056f96c687f67c49ed8309407e0612611e94b910464d8a3d9b60b46d7a6": "llama2-chat",
    "86259548ee8ebd6f7634070458ea3cbaf944c1804d3f9e8e6cdd5b67b77053db": "llama3-instruct",
    "dab853de9d80ab39f954e9825397b4f62e2e70aba2eea426faa16a2a19619b7c": "magicoder",
    "c502cd9313888317b670db1c6d5698783656a22ea75101651baa2c94d42397fb": "mistral-instruct",
    "e4ef0210ea1e3e5794d5cc22e95b85f97cfa0be15c3d18ad4b20e6915dcc2266": "openchat",
    "b97d1c3d0bba7208a4f5894883aa44e34ec5f1c3fe87fa7750e00c064c2ac2dd": "phi-3",
    "c1f4c93c190a4c563edb96d9690998c7d400b001b1d318920843a8194e96f30a": "solar-instruct",
    "ff417bcd727648d2cea9072e7596a142a45d62252606bc1b2906dd75a312a460": "starcoder2-instruct",
    "afb92aa3328db00d21faf8504790d8413c904b349b86fae332954bbe9c5899ca": "vicuna",
    "2f877f969346ff11f1c4df30c717db8a797a6353a9a32e4e4b33f0a89ba81f5d": "zephyr",
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where prompts come from, in words, and the code of the finding where it builds the wrong ones."""

    code: str
    words: str


def template_source(patient: Patient) -> Source:
    """Say which template builds the model's prompts."""
    stored = patient.stored
    if stored is not None and stored.template_source == "template":
        name = _BUILT_IN.get(hashlib.sha256(stored.template.strip().encode()).hexdigest())
        if name is not None:
            return Source(
                code="AUTODETECT", words=f"Ollama's own Go template {name!r}, attached because it looked alike,"
            )
        return Source(code="WRONG_TEMPLATE", words="the Go TEMPLATE of the Modelfile")
    if stored is not None and stored.template_source == "renderer":
        return Source(code="RENDERER_FORCED", words=f"Ollama's built-in renderer {stored.renderer or stored.parser}")
    in_file = patient.header is None or patient.header.value("tokenizer.chat_template") is not None
    if (stored is None and not in_file) or (stored is not None and stored.template_source == "none"):
        return Source(code="NO_TEMPLATE", words="no template of its own")
    if stored is not None and stored.has_go_template:
        return Source(code="PREFER_JINJA", words="the GGUF's chat template, which Ollama prefers to the Go TEMPLATE,")
    return Source(code="STALE_TEMPLATE", words="the GGUF's chat template")
