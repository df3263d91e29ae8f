"""What a folder holds, as a repository names it."""

from rl_llm.hub.tree import files_in


def test_files_are_named_by_their_path_within_and_hidden_ones_by_none(tmp_path):
    for name in ("a.json", "sub/b.jinja", ".hidden", ".git/c", "sub/.d"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
    assert files_in(tmp_path) == {
        "a.json": tmp_path / "a.json",
        "sub/b.jinja": tmp_path / "sub" / "b.jinja",
    }
