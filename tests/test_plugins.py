import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

from rl_llm import plugins
from rl_llm.config import NamedPart
from rl_llm.errors import ConfigError, PluginError


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder of shipped plugins that holds `double` and a private helper."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    (folder / "double.py").write_text("def double(completion):\n    return 2.0\n")
    (folder / "_helper.py").write_text("def _helper(): ...\n")
    monkeypatch.setattr(plugins, "shipped_folder", lambda kind: folder)
    return folder


@pytest.fixture
def installed(monkeypatch):
    """Make it look as if packages with these entry points, name to value, were installed."""

    def install(**points):
        def entry_points(*, group, name=None):
            found = [EntryPoint(key, value, group) for key, value in points.items()]
            return [point for point in found if name in (None, point.name)]

        monkeypatch.setattr(plugins, "entry_points", entry_points)

    install()
    return install


def test_a_bare_name_is_the_shipped_file_of_that_name(shipped, installed):
    plugin = plugins.resolve("double", kind="rewards")
    assert plugin.target("any") == 2.0
    assert (plugin.name, plugin.origin) == ("double", str(shipped / "double.py"))


def test_a_bare_name_is_else_an_entry_point_of_an_installed_package(shipped, installed):
    installed(tail="os.path:basename")
    plugin = plugins.resolve("tail", kind="rewards")
    assert plugin.target("a/b") == "b"
    assert plugin.origin == "os.path:basename of an installed package"


def test_the_shipped_folders_are_those_of_the_checkout_or_the_wheel():
    assert (plugins.shipped_folder("rewards") / "exact_answer.py").is_file()
    assert (plugins.shipped_folder("data") / "arithmetic.py").is_file()


def test_private_files_are_no_plugins(shipped, installed):
    assert list(plugins.names("rewards")) == ["double"]


def test_two_sources_of_one_name_are_an_error_that_shows_both(shipped, installed):
    installed(double="os.path:basename")
    with pytest.raises(PluginError) as caught:
        plugins.resolve("double", kind="rewards")
    assert str(caught.value) == (
        f"two sources define the rewards plugin 'double': {shipped / 'double.py'} and "
        "os.path:basename of an installed package; uninstall or rename one, or point at a file as "
        "path/to/file.py:double"
    )


def test_an_unknown_name_gets_the_nearest_and_the_list(shipped, installed):
    installed(triple="os.path:basename")
    with pytest.raises(PluginError) as caught:
        plugins.resolve("duoble", kind="rewards")
    assert str(caught.value) == (
        "there is no rewards plugin 'duoble' (did you mean 'double'?); known: double, triple; "
        "name one of these, or point at a file as path/to/file.py:duoble"
    )


def test_a_file_reference_loads_that_callable(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def first(): return 1\ndef second(): return 2\n")
    plugin = plugins.resolve(f"{file}:second", kind="data")
    assert (plugin.name, plugin.target(), plugin.module.first()) == ("second", 2, 1)


def test_a_missing_file_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PluginError) as caught:
        plugins.resolve("no.py:f", kind="rewards")
    assert str(caught.value) == f"no.py:f: there is no file 'no.py' (looked from {tmp_path})"


def test_a_file_without_the_name_lists_what_it_defines(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("limit = 3\ndef _private(): ...\ndef score(): ...\n")
    for name in ("scor", "limit"):
        with pytest.raises(PluginError, match=rf"defines no callable '{name}'.*known: score$"):
            plugins.resolve(f"{file}:{name}", kind="rewards")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("1 / 0", "line 1: ZeroDivisionError: division by zero"),
        ("def broken(:", "SyntaxError: "),
        (
            "import no_such_package",
            "line 1: ModuleNotFoundError: No module named 'no_such_package'",
        ),
    ],
)
def test_a_file_that_fails_to_load_is_one_message_and_leaves_no_module(tmp_path, source, reason):
    file = tmp_path / "broken_plugin.py"
    file.write_text(source)
    with pytest.raises(PluginError) as caught:
        plugins.resolve(f"{file}:broken", kind="rewards")
    assert str(caught.value).startswith(f"{file} cannot be loaded: {reason}")
    assert not [name for name in sys.modules if "broken_plugin" in name]


def test_a_file_is_loaded_once_and_again_when_it_changes(tmp_path):
    file = tmp_path / "counter.py"
    file.write_text("def value(): return 1\n")
    first = plugins.load_module(file)
    assert plugins.load_module(file) is first
    file.write_text("def value(): return 2\n")
    assert plugins.load_module(file).value() == 2
    assert first.value() == 1


def test_a_data_path_falls_back_to_the_shipped_one(tmp_path, monkeypatch, shipped):
    monkeypatch.chdir(tmp_path)
    (shipped / "models").mkdir()
    assert plugins.shipped_path("data/models") == shipped / "models"
    Path("data/models").mkdir(parents=True)
    assert plugins.shipped_path("data/models") == Path("data/models")


def test_a_path_that_exists_nowhere_stays_as_it_is(tmp_path, monkeypatch, shipped):
    monkeypatch.chdir(tmp_path)
    assert plugins.shipped_path("data/models") == Path("data/models")
    assert plugins.shipped_path("org/model") == Path("org/model")


def part(*, size: int, rate: float = 0.5, mode: str | None = None, rng: object = None):
    if size == 0:
        raise ValueError(f"size={size} is no size; use 1 or more")
    if rate == 0:
        raise ConfigError(f"rate={rate} is 0; use more")
    if rate > 1:
        raise ConfigError(f"rate={rate} is above 1")
    return SimpleNamespace(size=size, rate=rate, mode=mode, rng=rng)


@pytest.mark.parametrize("name", ["mine.py", "path/to/mine.py"])
def test_a_part_named_by_its_file_alone_is_asked_for_its_class(name):
    with pytest.raises(PluginError) as caught:
        plugins.build_named(NamedPart(name=name), {"half": object}, path="curriculum.sampler")
    assert str(caught.value) == (
        f"curriculum.sampler.name={name!r} names a file; name the class in it too, as "
        f"{name}:ClassName"
    )


def test_a_file_that_holds_no_python_is_refused_by_its_name(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("run: {}")
    with pytest.raises(PluginError) as caught:
        plugins.build_named(NamedPart(name=f"{file}:x"), {}, path="algorithm")
    assert str(caught.value) == (
        f"algorithm.name: {file}:x: '{file}' is no Python file; point at one, as "
        "path/to/file.py:name"
    )


class Ruler:
    def __init__(self, *, unit: str = "m"):
        self.unit = unit

    def measure(self): ...


@pytest.mark.parametrize(
    ("methods", "attributes", "message"),
    [
        (["cut"], ["unit"], "tool.name='ruler' has no cut; it needs unit, cut"),
        (["measure"], ["blade"], "tool.name='ruler' has no blade; it needs blade, measure"),
        (["cut"], [], "tool.name='ruler' has no cut"),
        (["measure"], ["unit"], None),
    ],
)
def test_a_part_needs_its_methods_and_once_built_its_attributes(methods, attributes, message):
    def build():
        part, table = NamedPart(name="ruler"), {"ruler": Ruler}
        return plugins.build_named(part, table, path="tool", methods=methods, attributes=attributes)

    if message is None:
        assert build().unit == "m"
        return
    with pytest.raises(PluginError) as caught:
        build()
    assert str(caught.value) == message


class Flat:
    def __init__(self, *, floor: float = 0.0, index: object = None): ...


class Steep:
    def __init__(self, *, slope: float = 1.0, power: float = 1.0, floor: float = 0.0): ...


def test_options_left_of_another_part_are_named_at_once_with_the_way_to_switch():
    table = {"flat": Flat, "steep": Steep}
    left = NamedPart(name="flat", slope=2.0, floor=0.1, power=3)
    with pytest.raises(ConfigError) as caught:
        plugins.build_named(left, table, path="sampler", offered={"index": None})
    assert str(caught.value) == (
        "sampler.slope=2.0, sampler.power=3: unknown options of 'flat', known to steep; it has "
        "floor; to switch to 'flat', set the section as a whole, as in 'sampler={name: flat}'"
    )


def test_all_misspelt_options_are_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        plugins.build_named(NamedPart(name="flat", flor=1, x=2), {"flat": Flat}, path="sampler")
    assert str(caught.value).splitlines() == [
        "sampler.flor: unknown option (did you mean 'floor'?); known: floor, index",
        "  sampler.x: unknown option; known: floor, index",
    ]


def test_a_class_that_wants_more_than_options_is_refused_with_what_it_is_given():
    class Part:
        def __init__(self, size, *, rate: float = 0.5): ...

    with pytest.raises(PluginError) as caught:
        plugins.build(Part, {}, path="curriculum.sampler")
    assert str(caught.value).startswith("curriculum.sampler: ")
    assert "cannot be built: missing a required argument: 'size'; it is given" in str(caught.value)


def test_options_are_the_keyword_only_arguments_with_defaults_filled_in():
    assert plugins.check_options(part, {"size": 3}, path="here", supplied=["rng"]) == {
        "size": 3,
        "rate": 0.5,
        "mode": None,
    }


def test_build_hands_over_options_and_what_the_program_supplies():
    built = plugins.build(part, {"size": 3, "rate": 1}, path="here", rng="stream")
    assert (built.size, built.rate, built.rng) == (3, 1.0, "stream")


def test_a_class_takes_the_options_of_its_constructor():
    class Part:
        def __init__(self, positional=0, *, size: int):
            self.size = size

    assert plugins.build(Part, {"size": 3}, path="here").size == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {},
            "curriculum.sampler.size: required, and missing; add `size: ...` under "
            "curriculum.sampler",
        ),
        (
            {"size": 3, "rat": 1.0},
            "curriculum.sampler.rat: unknown option (did you mean 'rate'?); "
            "known: mode, rate, size",
        ),
        (
            {"size": 3, "rng": 1},
            "curriculum.sampler.rng: unknown option; known: mode, rate, size",
        ),
        ({"size": "3"}, "curriculum.sampler.size='3': input should be a valid integer"),
        (
            {"size": 3, "mode": 5},
            "curriculum.sampler.mode=5: input should be a valid string; in quotes it is one: '5'",
        ),
        ({"size": 3, "rate": 2.0}, "curriculum.sampler: rate=2.0 is above 1; its default is 0.5"),
        ({"size": 0}, "curriculum.sampler: size=0 is no size; use 1 or more"),
        ({"size": 1, "rate": 0.0}, "curriculum.sampler: rate=0.0 is 0; use more"),
    ],
)
def test_a_wrong_option_names_its_path_in_the_recipe(options, message):
    with pytest.raises(ConfigError) as caught:
        plugins.build(part, options, path="curriculum.sampler", rng=None)
    assert str(caught.value) == message


def test_an_option_may_have_a_name_that_pydantic_uses_itself():
    def reward(completion, *, schema: dict, copy: bool = False, model_config: int = 3):
        return 1.0

    checked = plugins.check_options(reward, {"schema": {"type": "object"}}, path="rewards.0")
    assert checked == {"schema": {"type": "object"}, "copy": False, "model_config": 3}
    with pytest.raises(ConfigError, match=r"^rewards\.0\.copy=7: input should be a valid boolean$"):
        plugins.check_options(reward, {"schema": {}, "copy": 7}, path="rewards.0")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("algorithm", "'epsilon', known from TRL, is written as algorithm.clip_low"),
        ("curriculum.sampler", "known: rate"),
    ],
)
def test_an_option_of_trl_is_told_of_where_it_is_likely(path, said):
    def target(*, rate: float = 1.0):
        return rate

    with pytest.raises(ConfigError) as caught:
        plugins.check_options(target, {"epsilon": 0.2}, path=path)
    assert str(caught.value) == f"{path}.epsilon: unknown option; {said}"
