from __future__ import annotations

import pytest

from packager.artifacts import Conversation
from packager.chat.probes import core_probes, every_probe, load_probes


def by_id(name: str) -> Conversation:
    return next(probe for probe in load_probes() if probe.id == name)


def roles(probe: Conversation) -> str:
    return "".join(message.role[0] for message in probe.messages)


def test_core_conversations_are_the_six_that_every_engine_must_build() -> None:
    assert {probe.id: roles(probe) for probe in core_probes()} == {
        "user": "u",
        "system-user": "su",
        "user-assistant-user": "uau",
        "system-user-assistant-user": "suau",
        "three-turns": "suauau",
        "special-characters": "suau",
    }


def test_ext_conversations_come_after_core_ones() -> None:
    groups = [probe.group for probe in load_probes()]
    assert groups == sorted(groups)
    assert [probe.id for probe in load_probes() if probe.group == "EXT"] == [
        "whitespace",
        "empty-system",
        "two-users",
        "system-in-the-middle",
        "think-in-history",
        "ten-turns",
    ]


def test_tools_and_reasoning_come_last() -> None:
    assert every_probe()[: len(load_probes())] == load_probes()
    assert [(probe.group, probe.id) for probe in every_probe()[len(load_probes()) :]] == [
        ("TOOLS", "tool-declared"),
        ("TOOLS", "tool-round-trip"),
        ("THINK", "think-separate"),
        ("THINK", "think-before-tool"),
    ]


def test_text_has_neither_tools_nor_reasoning_of_its_own() -> None:
    for probe in load_probes():
        assert not probe.tools
        assert {message.role for message in probe.messages} <= {"system", "user", "assistant"}
        assert not any(message.tool_calls or message.thinking for message in probe.messages)


def test_a_call_is_of_a_declared_tool_and_is_answered() -> None:
    for probe in every_probe():
        declared = {tool.data()["function"]["name"] for tool in probe.tools}
        calls = {(call.name, call.id) for message in probe.messages for call in message.tool_calls}
        answers = {(message.tool_name, message.tool_call_id) for message in probe.messages if message.role == "tool"}
        assert answers == calls
        assert {name for name, _ in calls} <= declared
        assert {role for role, call in ((m.role, m.tool_calls or m.thinking) for m in probe.messages) if call} <= {
            "assistant"
        }


def test_every_conversation_of_text_ends_with_the_user() -> None:
    assert {probe.messages[-1].role for probe in load_probes()} == {"user"}


@pytest.mark.parametrize(
    "wanted",
    ["{{ x }}", "{% if y %}", "{# ", "<b>", "'", '"', "\\n", "&", "中文", "é", "😀", "\n\n"],
    ids=["braces", "block", "comment", "tag", "quote", "double quote", "backslash-n", "ampersand", "Chinese", "accent",
         "emoji", "two newlines"],
)  # fmt: skip
def test_special_characters_has(wanted: str) -> None:
    assert wanted in "".join(message.content for message in by_id("special-characters").messages)


def test_no_core_conversation_has_blanks_at_its_edges() -> None:
    assert all(message.content == message.content.strip() for probe in core_probes() for message in probe.messages)


def test_whitespace_has_blanks_at_both_edges_in_every_role() -> None:
    probe = by_id("whitespace")
    assert {message.role for message in probe.messages} == {"system", "user", "assistant"}
    for message in probe.messages:
        assert message.content[0].isspace()
        assert message.content[-1].isspace()


def test_empty_system_is_empty() -> None:
    assert by_id("empty-system").messages[0].content == ""


def test_think_in_history_has_closed_thoughts_of_the_assistant() -> None:
    thoughts = [message for message in by_id("think-in-history").messages if "<think>" in message.content]
    assert thoughts
    assert all(message.role == "assistant" and "</think>" in message.content for message in thoughts)


def test_ten_turns_has_ten_questions() -> None:
    assert roles(by_id("ten-turns")).count("u") == 10
