"""From prompts to token ids."""

import pytest

from rl_llm.errors import ModelError
from rl_llm.plugins import shipped_folder
from rl_llm.policy import load_tokenizer
from rl_llm.rollout.prompts import PromptEncoder

MODEL = str(shipped_folder("data") / "models" / "carry-adder")
CHAT = ({"role": "user", "content": "4+9="},)


def test_a_plain_prompt_is_its_own_tokens(tokenizer):
    encoder = PromptEncoder(tokenizer)
    assert encoder.decode([encoder.encode("47+38=")]) == ["47+38="]
    assert len(encoder.encode("47+38=")) == 6


def with_template(chat_template):
    return PromptEncoder(load_tokenizer(MODEL, chat_template=chat_template))


def test_a_chat_goes_through_the_template_with_the_assistants_turn_opened():
    template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<think>{% endif %}"
    )
    encoder = with_template(template)
    assert encoder.decode([encoder.encode(CHAT)]) == ["4+9=<think>"]


def test_a_template_may_stand_in_a_file(tmp_path):
    file = tmp_path / "template.jinja"
    file.write_text("{{ messages[0].content }}", encoding="utf-8")
    encoder = with_template(str(file))
    assert encoder.decode([encoder.encode(CHAT)]) == ["4+9="]


def test_a_chat_without_any_template_is_an_error_with_the_way_out(tokenizer):
    with pytest.raises(ModelError, match="no chat template"):
        PromptEncoder(tokenizer).encode(CHAT)


@pytest.fixture
def several(tmp_path):
    """Save the shipped tokenizer with named templates, and return the folder."""

    def save(**templates):
        tokenizer = load_tokenizer(MODEL)
        tokenizer.chat_template = templates
        tokenizer.save_pretrained(tmp_path / "several")
        return str(tmp_path / "several")

    return save


def test_of_several_templates_a_chat_takes_the_default(several):
    folder = several(default="{{ messages[0].content }}", tool_use="{{ messages[0].content }}?")
    encoder = PromptEncoder(load_tokenizer(folder))
    assert encoder.decode([encoder.encode(CHAT)]) == ["4+9="]
    assert encoder.unread(CHAT) == []


def test_several_templates_without_a_default_are_named_where_the_recipe_gives_none(several):
    folder = several(tool_use="{{ messages[0].content }}?", rag="{{ messages[0].content }}7")
    encoder = PromptEncoder(load_tokenizer(folder))
    assert encoder.decode([encoder.encode("4+9=")]) == ["4+9="]
    with pytest.raises(
        ModelError, match=r"templates rag, tool_use and no default; set model\.chat_template"
    ):
        encoder.encode(CHAT)
    given = f"{folder}/additional_chat_templates/rag.jinja"
    encoder = PromptEncoder(load_tokenizer(folder, chat_template=given))
    assert encoder.decode([encoder.encode(CHAT)]) == ["4+9=7"]


def test_a_template_file_that_is_missing_is_an_error():
    with pytest.raises(ModelError, match="neither a Jinja template nor a file"):
        with_template("no/such/file.jinja")


def test_what_the_tokenizer_cannot_read_is_found_where_it_stands():
    encoder = with_template("{{ messages[0].content }}?")
    assert encoder.unread("47+38=") == []
    assert encoder.unread("Ann: 4+9=") == ["A", "n", "n", ":"]
    assert encoder.unread(CHAT) == ["?"]


def test_an_unknown_token_that_is_written_out_or_put_in_front_is_no_unread_piece(tokenizer):
    encoder = PromptEncoder(tokenizer)
    assert encoder.num_unknown(encoder.encode("4+<unk>9=")) == 1
    assert encoder.unread("4+<unk>9=") == []


def test_a_tokenizer_without_an_unknown_token_reads_everything(tokenizer):
    tokenizer.unk_token = None
    encoder = PromptEncoder(tokenizer)
    assert (encoder.num_unknown((2, 2)), encoder.unread("A")) == (0, [])
