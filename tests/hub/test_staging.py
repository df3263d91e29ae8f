"""Adapters that wait to be pushed, and the folders that `rl-llm push` takes."""

import pytest

from rl_llm.errors import InputError
from rl_llm.hub import Place
from rl_llm.hub.source import find_source
from rl_llm.hub.staging import folder_of, forget, forget_past, stage, waiting
from rl_llm.hub.tree import files_in

TEMPLATE = "additional_chat_templates/tool_use.jinja"


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "runs" / "adder"
    folder.mkdir(parents=True)
    (folder / "resolved.yaml").write_text("run: {}\n", encoding="utf-8")
    return folder


@pytest.fixture
def checkpoint(run_dir):
    """Make a checkpoint with the adapter's files as PEFT writes them."""

    def make(step):
        folder = run_dir / "checkpoints" / f"step-{step:06d}"
        (folder / "adapter").mkdir(parents=True)
        for name in ("adapter_config.json", "adapter_model.safetensors", "README.md"):
            (folder / "adapter" / name).write_text(f"{name} of PEFT", encoding="utf-8")
        return folder

    return make


@pytest.fixture
def staged(run_dir, checkpoint, tmp_path):
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text("{}", encoding="utf-8")
    (tokenizer / "additional_chat_templates").mkdir()
    (tokenizer / TEMPLATE).write_text("a template", encoding="utf-8")

    def make(step):
        made = checkpoint(step)
        return stage(made, run_dir, tokenizer=tokenizer, card="our card", resolved="run: {}")

    return make


def names(folder):
    return sorted(files_in(folder))


def test_a_staged_folder_is_what_the_repository_gets(staged):
    folder = staged(50)
    assert folder.name == "step-000050"
    assert names(folder) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        TEMPLATE,
        "resolved.yaml",
        "tokenizer.json",
    ]
    assert (folder / "README.md").read_text(encoding="utf-8") == "our card"


def test_the_checkpoint_stays_as_it_is_and_its_end_spares_what_is_staged(staged, run_dir):
    folder, inside = staged(50), run_dir / "checkpoints" / "step-000050" / "adapter"
    assert (inside / "README.md").read_text(encoding="utf-8") == "README.md of PEFT"
    weights = inside / "adapter_model.safetensors"
    assert weights.samefile(folder / weights.name)  # Linked: no time, no room.
    weights.unlink()
    assert (folder / weights.name).read_text(encoding="utf-8").endswith("of PEFT")


def test_what_is_pushed_is_forgotten_and_the_last_takes_the_folder_along(staged, run_dir):
    first, second = staged(50), staged(100)
    assert waiting(run_dir) == [first, second]
    forget(first)
    assert waiting(run_dir) == [second]
    forget(second)
    assert not folder_of(run_dir).exists()


def test_going_back_drops_what_waits_of_later_steps(staged, run_dir):
    first, _ = staged(50), staged(100)
    forget_past(run_dir, 50)
    assert waiting(run_dir) == [first]


def test_a_folder_that_waits_is_found_with_its_run_and_step(staged, run_dir, tmp_path):
    folder = staged(50)
    source = find_source(folder)
    assert (source.run.path, source.step) == (run_dir, 50)
    files = source.files(tmp_path)
    assert files.keys().isdisjoint({"README.md", "resolved.yaml"})
    assert files[TEMPLATE] == str(folder / TEMPLATE)
    (folder / "resolved.yaml").write_text("as then", encoding="utf-8")
    assert source.write_recipe(tmp_path).read_text(encoding="utf-8") == "as then"


def test_a_file_that_is_not_utf_8_is_an_error_that_names_its_line(checkpoint, run_dir, tmp_path):
    folder = checkpoint(50)
    (run_dir / "resolved.yaml").write_bytes(b"run: {}\n# \xff")
    with pytest.raises(InputError, match=r"resolved\.yaml: byte 0xff at line 2 is not UTF-8; save"):
        find_source(folder).write_recipe(tmp_path)
    (folder / "adapter" / "README.md").write_bytes("# A card\nf\xfcr".encode("latin-1"))
    with pytest.raises(InputError, match=r"README\.md: byte 0xfc at line 2 is not UTF-8; save"):
        find_source(folder).card(Place(repo_id="me/adder"))


@pytest.mark.parametrize("name", ["step-000050.damaged", "other"])
def test_a_folder_among_checkpoints_that_is_none_is_refused(checkpoint, run_dir, name):
    other = checkpoint(50).rename(run_dir / "checkpoints" / name)
    with pytest.raises(InputError, match="is not the folder of a run"):
        find_source(other)
