"""Templates whose prompts are fixed texts around contents, and some whose prompts are not."""

from __future__ import annotations

from packager.formats.tokenizer import NamedToken, TokenizerFacts

TOKENS = TokenizerFacts(
    bos_token="<s>", eos_token="</s>", unk_token=None, pad_token=None,
    named=(NamedToken(name="bos_token", text="<s>"), NamedToken(name="eos_token", text="</s>")),
    special=(), vocabulary_size=None, adds_bos=True, chat_template=None,
)  # fmt: skip

_HEADER = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
_PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
CHATML = "{% for m in messages %}" + _HEADER + "{% endfor %}" + _PROMPT
QWEN = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}{{ '<|im_start|>system\nYou are Qwen.<|im_end|>\n' }}"
    "{% endif %}" + _HEADER + "{% endfor %}" + _PROMPT
)
LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set system, turns = messages[0].content, messages[1:] %}"
    "{% else %}{% set system, turns = none, messages %}{% endif %}"
    "{% for m in turns %}"
    "{% set c = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + m.content if loop.first and system is not none else m.content %}"
    "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + c.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + c.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim"
    " + '<|eot_id|>' }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
DROPS_SYSTEM = "{% for m in messages if m.role != 'system' %}" + _HEADER + "{% endfor %}" + _PROMPT
EMPTY_SYSTEM = CHATML.replace(_HEADER, "{% if m.role != 'system' or m.content %}" + _HEADER + "{% endif %}")
DROPS_THINKING = CHATML.replace(
    "m.content", "(m.content.split('</think>')[-1] if m.role == 'assistant' else m.content)"
)
LATE_SYSTEM = (
    "{{ bos_token }}{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}{{ '[INST] ' }}"
    "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{% endif %}"
    "{{ m.content | trim + '[/INST]' }}{% else %}{{ ' ' + m.content.lstrip('\n') + eos_token }}{% endif %}{% endfor %}"
)
SYSTEM_BEFORE_BOS = (
    "{% if messages[0].role == 'system' %}{{ messages[0].content + ' ' }}{% endif %}{{ bos_token }}"
    "{% for m in messages if m.role != 'system' %}{{ '<' + m.role + '>' + m.content }}{% endfor %}{{ '<assistant>' }}"
)
NEWLINES_GO = "{% for m in messages %}{{ m.role + ': ' + m.content.strip('\n') + '|' }}{% endfor %}"
LAST_ANSWER = CHATML.replace(
    "{{ '<|im_start|>'", "{{ '>>>' if loop.last and m.role == 'assistant' else '' }}{{ '<|im_start|>'"
)
QUOTES = "{% for m in messages %}{{ '{{\"\"\" \\\\ ' + m.role + ' }}' + '\u3000' + m.content }}{% endfor %}{{ '\"\"' }}"

SOLVED = {
    "chatml": CHATML, "qwen": QWEN, "llama2": LLAMA2, "llama3": LLAMA3, "no system": NO_SYSTEM,
    "drops the system": DROPS_SYSTEM, "empty system": EMPTY_SYSTEM, "drops thinking": DROPS_THINKING, "quotes": QUOTES,
    "system with the last user": LATE_SYSTEM, "system before BOS": SYSTEM_BEFORE_BOS, "newlines go": NEWLINES_GO,
    "another last answer": LAST_ANSWER,
}  # fmt: skip

REFUSED = {
    "rounds are numbered": (
        "{% for m in messages %}{{ '[Round ' + loop.index | string + ']' + m.content }}{% endfor %}",
        "POSITION",
    ),
    "system twice": (
        "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' and messages[0].role == 'system' %}"
        "{{ messages[0].content }}{% endif %}{{ '<' + m.role + '>' + m.content }}{% endfor %}",
        "SYS_MERGE",
    ),
    "a content decides": (
        "{% for m in messages %}{{ m.role + ': ' + m.content }}{% if 'France' in m.content %}!{% endif %}{% endfor %}",
        "POSITION",
    ),
    "capitals": ("{% for m in messages %}{{ m.role + ': ' + m.content | upper }}{% endfor %}", "POSITION"),
    "refuses everything": ("{{ raise_exception('no') }}", "POSITION"),
    "blanks are squeezed": (
        "{% for m in messages %}{{ m.role + ': ' + m.content.split() | join(' ') + ' |' }}{% endfor %}",
        "POSITION",
    ),
    "only tabs go": (
        "{% for m in messages %}{{ m.role + ': ' + m.content.replace('\t', '') + '|' }}{% endfor %}",
        "TRIM",
    ),
    "tabs go": ("{% for m in messages %}{{ m.role + ': ' + m.content.replace('\t', '') + '|' }}{% endfor %}", "TRIM"),
    "only spaces go": (
        "{% for m in messages %}{{ m.role + ': ' + m.content.strip(' ') + '|' }}{% endfor %}",
        "POSITION",
    ),
}
