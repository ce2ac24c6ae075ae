"""A template's model as a Go TEMPLATE, for an Ollama that does not run the GGUF's own Jinja (before 0.30).

Ollama joins messages of one role in a row before it renders, so the form holds for roles that alternate, as the model does.
It adds BOS itself: a literal one would be doubled. Go's templates have no trim, so blanks are cut off by recursion.

Source: ollama 0.34.0, template/template.go (`Execute`, `collate`); Go's text/template.
"""

from __future__ import annotations

from packager.artifacts import Conversation, GoForm
from packager.chat.solve import Render, solve_turns
from packager.chat.turn_model import ASSISTANT, END, LATE_SYSTEM, START, SYSTEM, USER, Trim, TurnModel, Unsolved

# The characters that are cut off (for blanks those of Python's str.strip), by their length in UTF-8.
_CUT = {
    Trim.NEWLINES: {1: "\n"},
    Trim.BLANKS: {
        1: "\t\n\v\f\r\x1c\x1d\x1e\x1f ",
        2: "\x85\xa0",
        3: "\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000",
    },
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
    return go_form_of(model)


def go_form_of(model: TurnModel | Unsolved) -> GoForm:
    """Give the Go form of a model that was learned, or say why there is none."""
    if isinstance(model, Unsolved):
        return GoForm(text=None, code=model.code, reason=f"conversation {model.conversation}: {model.reason}")
    return GoForm(text=go_template(model), limits=tuple(_LIMITS[limit] for limit in model.limits))


def go_template(model: TurnModel) -> str:
    """Give the TEMPLATE of a model: every text is a quoted string, so that no white space of the layout counts."""
    systems = _system(model)
    parts = [
        *(['{{- $late := "" }}{{- $has_late := false }}'] if model.moves_system else []),
        '{{- $previous := "" }}',
        "{{- range $place, $_ := .Messages }}" if model.moves_system else "{{- range .Messages }}",
        *systems,
        f'{{{{- {"else if" if systems else "if"} eq .Role "user" }}}}',
        *_user(model),
        '{{- else if eq .Role "assistant" }}',
        "  " + _text(model, USER, ASSISTANT) + _content(model, USER, ASSISTANT, (USER,)),
        "{{- end }}",
        *_remember(model),
        "{{- end }}" + _text(model, USER, END),
    ]
    body = "\n".join(parts)
    return "\n".join([*_definitions(body), body])


def _system(model: TurnModel) -> list[str]:
    if model.moves_system:
        return ['{{- if eq .Role "system" }}{{- $late = .Content }}{{- $has_late = true }}']
    if not model.writes_system:
        return []
    written = _text(model, START, SYSTEM) + _content(model, START, SYSTEM, (USER,))
    if model.empty_system is not None:
        written = "{{- if .Content }}" + written + "{{- end }}"
    return ['{{- if eq .Role "system" }}', "  " + written]


def _user(model: TurnModel) -> list[str]:
    lines = []
    if model.moves_system:
        lines += [
            "  {{- if and $has_late (eq (len (slice $.Messages $place)) 1) }}",
            f'    {{{{- if eq $previous "assistant" }}}}{_late(model, ASSISTANT)}',
            f"    {{{{- else }}}}{_late(model, START)}{{{{- end }}}}",
            "    " + _text(model, LATE_SYSTEM, USER) + _content(model, LATE_SYSTEM, USER, (END,)),
        ]
    cases = [(ASSISTANT, "assistant")]
    if model.writes_system:
        cases.append((SYSTEM, "system"))
    for previous, name in cases:
        test = f'{{{{- {"else if" if lines else "if"} eq $previous "{name}" }}}}'
        lines.append(f"  {test}{_text(model, previous, USER)}{_content(model, previous, USER, (ASSISTANT, END))}")
    first = _content(model, START, USER, (ASSISTANT, END))
    if model.empty_system is not None:
        lines.append(f'  {{{{- else if eq $previous "empty system" }}}}{{{{- {_quoted(model.empty_system)} }}}}{first}')
    return [*lines, f"  {{{{- else }}}}{_text(model, START, USER)}{first}", "  {{- end }}"]


def _late(model: TurnModel, previous: str) -> str:
    return _text(model, previous, LATE_SYSTEM) + _content(model, previous, LATE_SYSTEM, (USER,), "$late")


def _remember(model: TurnModel) -> list[str]:
    if not model.writes_system:
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


def _content(model: TurnModel, previous: str, role: str, following: tuple[str, ...], value: str = ".Content") -> str:
    """Write a content, cut as it is between these roles (all that can follow cut its end alike)."""
    left, right = model.cuts(previous, role, following)
    if left is Trim.NOTHING and right is Trim.NOTHING:
        return f"{{{{- {value} }}}}"
    return f'{{{{- template "{_cutter(left, right)}" {value} }}}}'


def _cutter(left: Trim, right: Trim) -> str:
    return f"cut {left} and {right}"


def _definitions(body: str) -> list[str]:
    """Give the definitions that a template's body needs; both ends are cut by cutting the left one, then the right one."""
    found = []
    for right in Trim:
        needed = [left for left in Trim if f'"{_cutter(left, right)}"' in body]
        if right is not Trim.NOTHING and needed:
            found.append(_definition(_cutter(Trim.NOTHING, right), "{{- . }}", right, left=False))
        then = "{{- . }}" if right is Trim.NOTHING else f'{{{{- template "{_cutter(Trim.NOTHING, right)}" . }}}}'
        found += [
            _definition(_cutter(left, right), then, left, left=True) for left in needed if left is not Trim.NOTHING
        ]
    return found


def _definition(name: str, otherwise: str, trim: Trim, *, left: bool) -> str:
    cases: list[str] = []
    for length, characters in _CUT[trim].items():
        tested = f"slice . 0 {length}" if left else f"slice . (len (slice . {length}))"
        rest = f"slice . {length}" if left else f"slice . 0 (len (slice . {length}))"
        texts = " ".join(map(_quoted, characters))
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
