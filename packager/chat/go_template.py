"""A template's model as a Go TEMPLATE, for an Ollama that does not run the GGUF's own Jinja (before 0.30).

Ollama joins messages of one role in a row before it renders, so the form holds for roles that alternate, as the model does.
It adds BOS itself: a literal one would be doubled. Go's templates have no trim, so blanks are cut off by recursion.

Source: ollama 0.34.0, template/template.go (`Execute`, `collate`); Go's text/template.
"""

from __future__ import annotations

from packager.artifacts import Conversation, GoForm
from packager.chat.solve import Render, solve_turns
from packager.chat.turn_model import ASSISTANT, END, START, SYSTEM, USER, TurnModel, Unsolved

# What Python's str.strip takes for a blank, by its length in UTF-8.
_BLANKS = {
    1: "\t\n\v\f\r\x1c\x1d\x1e\x1f ",
    2: "\x85\xa0",
    3: "\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000",
}

_LIMITS = {
    "think": "answers in the history that have </think> in them",
    "empty": "messages that are empty or blank",
    "system blanks": "a system prompt of nothing but blanks",
}


def go_form(render: Render, probes: tuple[Conversation, ...], *, bos: str) -> GoForm:
    """Give the Go form of a template, or the reason code and the first conversation that no such form can build.

    Args:
        render: Gives the reference's prompt for messages.
        probes: The conversations it is proved on.
        bos: Text of the tokenizer's BOS, empty when it has none.
    """
    model = solve_turns(render, probes, bos=bos)
    if isinstance(model, Unsolved):
        return GoForm(text=None, code=model.code, reason=f"conversation {model.conversation}: {model.reason}")
    return GoForm(text=go_template(model), limits=tuple(_LIMITS[limit] for limit in model.limits))


def go_template(model: TurnModel) -> str:
    """Give the TEMPLATE of a model: every text is a quoted string, so that no white space of the layout counts."""
    parts = ['{{- $previous := "" }}', "{{- range .Messages }}"]
    if model.edge(START, SYSTEM) is not None:
        parts += _system(model)
    parts.append(f'{{{{- {"else if" if model.edge(START, SYSTEM) is not None else "if"} eq .Role "user" }}}}')
    parts += _user(model)
    parts += [
        '{{- else if eq .Role "assistant" }}',
        "  " + _text(model, USER, ASSISTANT) + _content(*_cuts(model, USER, ASSISTANT, (USER,))),
        "{{- end }}",
        *_remember(model),
        "{{- end }}" + _text(model, USER, END),
    ]
    body = "\n".join(parts)
    return "\n".join([*_definitions(body), body])


def _system(model: TurnModel) -> list[str]:
    written = _text(model, START, SYSTEM) + _content(*_cuts(model, START, SYSTEM, (USER,)))
    if model.empty_system is None:
        return ['{{- if eq .Role "system" }}', "  " + written]
    return ['{{- if eq .Role "system" }}', "  {{- if .Content }}" + written + "{{- end }}"]


def _user(model: TurnModel) -> list[str]:
    lines = []
    cases = [(ASSISTANT, '{{- if eq $previous "assistant" }}')]
    if model.edge(SYSTEM, USER) is not None:
        cases.append((SYSTEM, '{{- else if eq $previous "system" }}'))
    for previous, test in cases:
        lines.append(
            f"  {test}{_text(model, previous, USER)}{_content(*_cuts(model, previous, USER, (ASSISTANT, END)))}"
        )
    first = _content(*_cuts(model, START, USER, (ASSISTANT, END)))
    if model.empty_system is not None:
        lines.append(f'  {{{{- else if eq $previous "empty system" }}}}{{{{- {_quoted(model.empty_system)} }}}}{first}')
    return [*lines, f"  {{{{- else }}}}{_text(model, START, USER)}{first}", "  {{- end }}"]


def _remember(model: TurnModel) -> list[str]:
    if model.edge(START, SYSTEM) is None:
        return ['{{- if ne .Role "system" }}{{- $previous = .Role }}{{- end }}']
    if model.empty_system is None:
        return ["{{- $previous = .Role }}"]
    return [
        '{{- if and (eq .Role "system") (not .Content) }}{{- $previous = "empty system" }}'
        "{{- else }}{{- $previous = .Role }}{{- end }}"
    ]


def _text(model: TurnModel, previous: str, following: str) -> str:
    edge = model.edge(previous, following)
    return f"{{{{- {_quoted(edge.text)} }}}}" if edge is not None and edge.text else ""


def _cuts(model: TurnModel, previous: str, role: str, following: tuple[str, ...]) -> tuple[bool, bool]:
    before = model.edge(previous, role)
    behind = [model.edge(role, each) for each in following]
    return before is not None and before.trims_next, any(edge is not None and edge.trims_previous for edge in behind)


def _content(left: bool, right: bool) -> str:
    name = {(True, True): "trim", (True, False): "trimleft", (False, True): "trimright"}.get((left, right))
    return "{{- .Content }}" if name is None else f'{{{{- template "{name}" .Content }}}}'


def _definitions(body: str) -> list[str]:
    """Give the definitions that a template's body needs; both ends are cut by cutting the left one, then the right one."""
    both = '{{- template "trim" ' in body
    found = []
    if '{{- template "trimleft" ' in body:
        found.append(_definition("trimleft", "{{- . }}", left=True))
    if both or '{{- template "trimright" ' in body:
        found.append(_definition("trimright", "{{- . }}", left=False))
    if both:
        found.append(_definition("trim", '{{- template "trimright" . }}', left=True))
    return found


def _definition(name: str, otherwise: str, *, left: bool) -> str:
    cases: list[str] = []
    for length, blanks in _BLANKS.items():
        tested = f"slice . 0 {length}" if left else f"slice . (len (slice . {length}))"
        rest = f"slice . {length}" if left else f"slice . 0 (len (slice . {length}))"
        texts = " ".join(map(_quoted, blanks))
        test = f"and (ge (len .) {length}) (eq ({tested}) {texts})"
        cases.append(f'{{{{- {"else if" if cases else "if"} {test} }}}}{{{{- template "{name}" ({rest}) }}}}')
    return (
        f'{{{{- define "{name}" }}}}\n  '
        + "\n  ".join(cases)
        + f"\n  {{{{- else }}}}{otherwise}{{{{- end }}}}\n{{{{- end }}}}"
    )


def _quoted(text: str) -> str:
    """Give a string as Go reads it, in ASCII: a Modelfile's parser drops some characters."""
    plain = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return '"' + "".join(plain.get(c) or (c if " " <= c <= "~" else f"\\U{ord(c):08x}") for c in text) + '"'
