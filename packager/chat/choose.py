"""Which chat template a model was trained with, when the files name more than one."""

from __future__ import annotations

from packager.artifacts import Adapter, Checkpoint, Conversation
from packager.chat.originals import Original, folder_original, named_original, trainer_original
from packager.chat.pins import FIXED_DAY, Renders, renders
from packager.chat.probes import CORE
from packager.chat.prompt_diff import prompt_diff
from packager.chat.render import Renderer, RenderRefused, Setting
from packager.errors import InputInvalid, Unsupported
from packager.formats.tokenizer import TokenizerFacts, read_chat_template
from packager.sources.trainer_config import TITLES, TrainerTemplate, read_trainer_config

_SHOWN_LINES = 60
_WHOLE = 1 << 20  # lines of context: the diff shows both prompts from end to end


def choose_original(
    base: Checkpoint,
    adapter: Adapter | None,
    template_file: str | None,
    tokens: TokenizerFacts,
    probes: tuple[Conversation, ...],
) -> Original:
    """Give the template the model was trained with.

    What the user names decides. Otherwise there are up to three: the adapter folder's own, the one that a trainer's
    configuration in that folder names (in the base's, without an adapter), and the base's. The first of them is given, if
    they agree. The two that were read from folders must build the same prompts for every probe. A trainer's must build theirs
    for the CORE ones: of the odd ones some cannot be in its training data at all, and the rest is noted.

    Args:
        base: What was fine-tuned.
        adapter: The fine-tune, None where `base` is one itself.
        template_file: What the user typed behind `--template`.
        tokens: The tokenizer of the base.
        probes: The conversations to agree on.

    Raises:
        InputInvalid: Two of them build different prompts, shown as a diff, or a file cannot be read.
        UnsafeInput: One of two templates to compare does not end.
        Unsupported: There is no template anywhere, or a trainer's is none of the named ones.
    """
    if template_file is not None:
        return named_original(template_file)
    config = read_trainer_config(base.folder if adapter is None else adapter.folder)
    of_trainer = None if config is None else trainer_original(config)
    of_base = folder_original("the base's chat template", base.folder, base.chat_template)
    of_adapter = None
    if adapter is not None:
        has_it = (folder for folder in reversed(adapter.folders) if read_chat_template(folder) is not None)
        folder = next(has_it, adapter.folder)
        of_adapter = folder_original("the adapter's chat template", folder, adapter.chat_template)
    chosen = of_adapter or of_trainer or of_base
    if chosen is None:
        where = f"{base.folder}" if adapter is None else f"{adapter.folder} and {base.folder}"
        raise Unsupported(
            f"{where}: no chat template (chat_template.jinja, or chat_template in tokenizer_config.json)",
            hint="Pass the one the model was trained with: --template FILE|NAME.",
        )
    comparison = _Comparison(tokens, probes)
    found = [each for each in (of_adapter, of_trainer, of_base) if each is not None]
    if config is not None and of_trainer is not None:
        for other in (of_adapter, of_base):
            if other is not None:
                comparison.require_same_core(of_trainer, other, _hint(found, config))
    if of_adapter is not None and of_base is not None:
        comparison.require_same(of_adapter, of_base, _hint(found, config))
    if of_trainer is None:
        return chosen
    notes = comparison.notes(of_trainer, chosen)
    return Original(source=chosen.source, text=chosen.text, choice=chosen.choice, stops=of_trainer.stops, notes=notes)


class _Comparison:
    """Renders each text once, and compares; the clock stands still for all of them."""

    def __init__(self, tokens: TokenizerFacts, probes: tuple[Conversation, ...]) -> None:
        self._tokens = tokens
        self._probes = probes
        self._rendered: dict[str, Renders] = {}

    def require_same(self, one: Original, other: Original, hint: str) -> None:
        if different := self._different(one, other):
            raise self._conflict(one, other, different[0], hint)

    def require_same_core(self, one: Original, other: Original, hint: str) -> None:
        for index in self._different(one, other):
            if self._probes[index].group == CORE:
                raise self._conflict(one, other, index, hint)

    def notes(self, trained: Original, chosen: Original) -> tuple[str, ...]:
        """Name the conversations that the trainer would have written otherwise, and how to have it so."""
        odd = [self._probes[index].id for index in self._different(trained, chosen)]
        if not odd:
            return ()
        said = f"{trained.source} builds other prompts than {chosen.source} for {', '.join(odd)}"
        return (f"{said}; --template {trained.choice} chooses it",)

    def _different(self, one: Original, other: Original) -> list[int]:
        pairs = zip(self._prompts(one), self._prompts(other), strict=True)
        return [
            index
            for index, (a, b) in enumerate(pairs)
            if a != b and not (isinstance(a, RenderRefused) and isinstance(b, RenderRefused))
        ]

    def _prompts(self, original: Original) -> Renders:
        if original.text not in self._rendered:
            with Renderer(original.source, self._tokens) as renderer:
                self._rendered[original.text] = renders(renderer, original.text, self._probes, Setting(now=FIXED_DAY))
        return self._rendered[original.text]

    def _conflict(self, one: Original, other: Original, index: int, hint: str) -> InputInvalid:
        left, right = self._prompts(one)[index], self._prompts(other)[index]
        message = f"{one.source} and {other.source} build different prompts: conversation {self._probes[index].id}"
        if isinstance(left, RenderRefused):
            return InputInvalid(f"{message}, which the first refuses ({left.message})", hint=hint)
        if isinstance(right, RenderRefused):
            return InputInvalid(f"{message}, which the second refuses ({right.message})", hint=hint)
        lines = prompt_diff(left, right, context_lines=_WHOLE)
        shown = lines if len(lines) <= _SHOWN_LINES else (*lines[:_SHOWN_LINES], "...")
        return InputInvalid(message, hint=hint, lines=(f"--- {one.source}", f"+++ {other.source}", *shown))


def _hint(found: list[Original], config: TrainerTemplate | None) -> str:
    """Name each choice, those of one text once, and what is known of trainers."""
    choices: dict[str, str] = {}
    for original in found:
        choices.setdefault(original.text, original.choice)
    hint = "Say which one the model was trained with: "
    hint += " or ".join(f"--template {choice}" for choice in choices.values())
    if config is None:
        return hint + "."
    return f"{hint}. With most templates {TITLES[config.trainer]} saves the base's in its folder, not the one it trains with."
