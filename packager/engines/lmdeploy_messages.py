"""What LMDeploy makes of declared functions.

Source: lmdeploy 0.18.0, serve/openai/protocol.py (`Function`), serve/parsers/tool_parser/tool_parser.py (`dump_tools`).
"""

from __future__ import annotations

from packager.codec import JsonObject

_FIELDS = ("description", "name", "parameters")


def bare_function(tool: JsonObject) -> JsonObject:
    """Give a declared function as LMDeploy hands it to a template: without its wrapper, in the order of its own type."""
    function = tool.data().get("function")
    known = function if isinstance(function, dict) else {}
    return JsonObject.of({field: known.get(field) for field in _FIELDS})
