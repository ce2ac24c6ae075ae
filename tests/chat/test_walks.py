from __future__ import annotations

import hashlib
import itertools
import json

import pytest

from packager.chat.walks import CONTENTS, GROUP, random_walks


def test_a_seed_gives_the_same_walks_everywhere() -> None:
    told = [
        {
            "group": walk.group,
            "id": walk.id,
            "messages": [{"content": m.content, "role": m.role} for m in walk.messages],
        }
        for walk in random_walks(50, 7)
    ]
    text = json.dumps(told, separators=(",", ":"))
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "e05fe15d3018348d1e5482ed49701640eb85f1c363870ad44a28aa40d23909ae"
    )


def test_more_walks_begin_with_the_fewer_and_another_seed_gives_others() -> None:
    assert random_walks(20, 1)[:5] == random_walks(5, 1)
    assert {walk.messages for walk in random_walks(20, 1)} != {walk.messages for walk in random_walks(20, 2)}
    assert random_walks(0, 1) == ()


@pytest.mark.parametrize("alternate", [True, False], ids=["alternating", "any order"])
def test_each_ends_with_a_user_and_has_a_name_of_its_own(alternate: bool) -> None:
    walks = random_walks(300, 3, alternate=alternate)
    assert {walk.messages[-1].role for walk in walks} == {"user"}
    assert {walk.group for walk in walks} == {GROUP}
    assert len({walk.id for walk in walks}) == 300
    assert {turn.content for walk in walks for turn in walk.messages} == set(CONTENTS)


def test_alternating_walks_alternate_and_the_others_do_not() -> None:
    def odd(roles: list[str]) -> bool:
        return "system" in roles[1:] or any(a == b for a, b in itertools.pairwise(roles))

    regular = [[turn.role for turn in walk.messages] for walk in random_walks(200, 3, alternate=True)]
    free = [[turn.role for turn in walk.messages] for walk in random_walks(200, 3)]
    assert not any(map(odd, regular))
    assert sum(map(odd, free)) > 50
    assert {roles[0] for roles in regular} == {"system", "user"}
