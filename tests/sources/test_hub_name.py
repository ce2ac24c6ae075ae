from __future__ import annotations

from pathlib import Path

import pytest

from packager.errors import Usage
from packager.sources.hub_name import HubKind, HubName, is_hub_name

COMMIT = "72779c1c6c22aa8026abdd773782aa31c6b44270"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf:Qwen/Qwen2.5-0.5B", HubName(kind=HubKind.HUGGING_FACE, repo="Qwen/Qwen2.5-0.5B")),
        ("Qwen/Qwen2.5-0.5B", HubName(kind=HubKind.HUGGING_FACE, repo="Qwen/Qwen2.5-0.5B")),
        ("ms:Qwen/Qwen2.5-0.5B", HubName(kind=HubKind.MODELSCOPE, repo="Qwen/Qwen2.5-0.5B")),
        ("hf:a/b@refs/pr/3", HubName(kind=HubKind.HUGGING_FACE, repo="a/b", revision="refs/pr/3")),
        (f"ms:a/b@{COMMIT}", HubName(kind=HubKind.MODELSCOPE, repo="a/b", revision=COMMIT)),
    ],
    ids=["hf", "bare", "ms", "ref", "commit"],
)
def test_a_name_is_read_and_written_back(text: str, expected: HubName) -> None:
    assert HubName.parse(text) == expected
    assert HubName.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "hf:plain", "hf:", "xx:a/b", "a/b/c", "../x", "hf:../x", "./a", "/a/b", "a/..", "hf:a/b@../x", "hf:a/b@", "a/-b",
        ".a/b", "hf:a--b/c", "hf:a/b@x//y", "hf:a/b@x/", "a b/c", "", "hf:a/b@-x", "https://huggingface.co/a/b", "a/b\n", "ä/b",
    ],
)  # fmt: skip
def test_what_is_no_name_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(Usage, match="no name on a hub") as caught:
        HubName.parse(text)
    assert "hf:ORG/NAME" in caught.value.hint


def test_a_revision_beside_the_name_is_the_same_as_in_it() -> None:
    assert HubName.parse("hf:a/b", revision="v1") == HubName.parse("hf:a/b@v1")
    assert HubName.parse("hf:a/b@v1", revision="v1") == HubName.parse("hf:a/b@v1")


def test_two_revisions_are_refused() -> None:
    with pytest.raises(Usage, match=r"a/b@v1 names a revision, and --revision v2"):
        HubName.parse("hf:a/b@v1", revision="v2")


def test_a_revision_that_leaves_the_cache_is_refused() -> None:
    with pytest.raises(Usage, match="no revision"):
        HubName.parse("hf:a/b", revision="../../x")


def test_only_a_whole_commit_id_is_a_commit() -> None:
    assert HubName.parse(f"hf:a/b@{COMMIT}").commit == COMMIT
    assert HubName.parse(f"hf:a/b@{COMMIT[:12]}").commit is None
    assert HubName.parse("hf:a/b").commit is None


def test_a_folder_wins_over_a_bare_name_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_name("org/model")
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert not is_hub_name("org/model")
    assert is_hub_name("hf:org/model")


@pytest.mark.parametrize(
    "text", ["./org/model", "/org/model", "model", "org/model/checkpoint-3", "~/model", "../model"]
)
def test_a_path_is_no_hub_name(text: str) -> None:
    assert not is_hub_name(text)
