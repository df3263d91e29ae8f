"""The layers, the light modules and the size budgets, read from the source with ast.

There is no list of exceptions: what breaks a rule is changed, or the rule is.
"""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A unit (a module or folder of rl_llm, or a plugin folder) imports only from levels before its own.
LEVELS = [
    ["errors", "launchers", "seeds"],
    ["run_lock"],
    ["config"],
    ["records", "plugins"],
    ["problems", "pass_rates", "curriculum", "kl"],
    ["rollout", "scoring"],
    ["algorithms", "rewards", "data"],
    ["policy"],
    ["trainer"],
    ["hub", "report", "tracking"],
    ["cli"],
    ["__main__"],
    ["scripts"],
]
LEVEL_OF = {unit: level for level, units in enumerate(LEVELS) for unit in units}
# What a unit may import of rl_llm, where that is less than the levels before it.
NARROW = {"algorithms": {"records"}}

WITHOUT_TORCH = {
    *(
        "errors",
        "launchers",
        "seeds",
        "run_lock",
        "config",
        "records",
        "plugins",
        "problems",
        "pass_rates",
        "curriculum",
        "kl",
        "scoring",
    ),
    *("rewards", "data"),
}
HOMES = {
    "accelerate": ["rl_llm/policy/ranks.py"],
    "deepspeed": ["rl_llm/policy/zero.py"],
    "huggingface_hub": ["rl_llm/hub/"],
    "httpx": ["rl_llm/rollout/server_client.py", "rl_llm/scoring/remote.py"],
    "matplotlib": ["rl_llm/report/"],
    "peft": ["rl_llm/policy/", "rl_llm/rollout/"],
    "tensorboard": ["rl_llm/tracking/event_file.py"],
    "vllm": ["rl_llm/rollout/vllm_engine.py"],
    "wandb": ["rl_llm/tracking/wandb_child.py"],
}
# What a person runs; what these are made of lies in scripts/parts, which they import as `parts`.
PROGRAMS = {file.stem for file in (ROOT / "scripts").glob("*.py")}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def faults(path: str, source: str) -> list[str]:
    """Return what a file, named from the root of the repository, breaks."""
    tree = ast.parse(source)
    imports = list(imports_of(tree))
    found = [*layer_faults(path, imports), *dependency_faults(path, imports)]
    found += [*size_faults(tree, source), *print_faults(path, tree)]
    return [f"{path}:{fault}" for fault in found]


def imports_of(tree: ast.Module):
    """Yield (line, dotted name, whether it is imported at run time) for every import."""
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield node.lineno, name, id(node) not in typing_only


def unit_of(path: str) -> str:
    """Return the unit that a file belongs to: `rl_llm/kl/x.py` to kl, `rewards/x.py` to rewards."""
    parts = Path(path).with_suffix("").parts
    return parts[1] if parts[0] == "rl_llm" else parts[0]


def layer_faults(path, imports):
    unit = unit_of(path)
    if unit == "__init__":
        return
    if unit not in LEVEL_OF:
        yield f"1: {unit} has no place among the levels"
        return
    before = {other for other, level in LEVEL_OF.items() if level < LEVEL_OF[unit]}
    allowed = NARROW.get(unit, before) | ({unit} if path.startswith("rl_llm/") else set())
    for line, name, _ in imports:
        top, *rest = name.split(".")
        if top == "rl_llm" and rest[0] in LEVEL_OF and rest[0] not in allowed:
            yield f"{line}: {unit} imports {rest[0]}"
        if top in ("scripts", "rewards", "data", "tests") or (top == "parts" and unit != "scripts"):
            yield f"{line}: {unit} imports the folder {top}"
        if top in PROGRAMS and path.startswith("scripts/parts/"):
            yield f"{line}: a part imports the program {top}"


def dependency_faults(path, imports):
    for line, name, at_run_time in imports:
        top = name.split(".")[0]
        homes = HOMES.get(top, [path])
        if not path.startswith(("scripts/", *homes)):
            yield f"{line}: {top} is imported outside {' and '.join(homes)}"
        if top == "torch" and at_run_time and unit_of(path) in WITHOUT_TORCH:
            yield f"{line}: {unit_of(path)} imports torch at run time"


def size_faults(tree, source):
    lines = len(source.splitlines())
    if lines > MAX_FILE_LINES:
        yield f"{lines}: {lines} lines, at most {MAX_FILE_LINES} in a file"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield (
                    f"{node.lineno}: {node.name} has {length} lines, "
                    f"at most {MAX_FUNCTION_LINES} in a function"
                )


def print_faults(path, tree):
    if path.startswith(("rl_llm/cli/", "scripts/")):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "print":
            yield f"{node.lineno}: print outside cli and scripts"


FILES = sorted(
    str(file.relative_to(ROOT))
    for folder in ("rl_llm", "rewards", "data", "scripts")
    for file in (ROOT / folder).rglob("*.py")
)


@pytest.mark.parametrize("path", FILES)
def test_a_file_keeps_to_the_architecture(path):
    assert faults(path, (ROOT / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_what_lies_in_scripts_itself_can_be_run(program):
    source = (ROOT / "scripts" / f"{program}.py").read_text(encoding="utf-8")
    assert 'if __name__ == "__main__":' in source, "what is only imported belongs in scripts/parts"


@pytest.mark.parametrize(
    ("root", "folder", "module", "imported"),
    [
        (ROOT, "rl_llm", "rl_llm.cli.session", "rl_llm.cli.parts"),
        (ROOT / "scripts", "parts", "parts.kl.arms", "parts.shared.runs"),
    ],
)
def test_no_modules_import_each_other_in_a_circle(root, folder, module, imported):
    files = sorted((root / folder).rglob("*.py"))
    modules = {".".join(file.relative_to(root).with_suffix("").parts): file for file in files}
    graph = {}
    for name, file in modules.items():
        names = {found for _, found, _ in imports_of(ast.parse(file.read_text(encoding="utf-8")))}
        graph[name] = (names | {found.rpartition(".")[0] for found in names}) & {*modules}
    assert imported in graph[module]
    TopologicalSorter(graph).prepare()  # Its error names the circle.


def test_light_modules_import_without_torch():
    light = sorted(WITHOUT_TORCH - {"rewards", "data"})
    present = [name for name in light if list((ROOT / "rl_llm").glob(f"{name}*"))]
    program = f"import sys; {'; '.join(f'import rl_llm.{name}' for name in present)}\n"
    program += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


LONG = "def long():\n" + "    x = 1\n" * 60


@pytest.mark.parametrize(
    ("path", "source", "fault"),
    [
        ("rl_llm/kl/x.py", "from rl_llm.policy import f", "1: kl imports policy"),
        ("rl_llm/kl/x.py", "from rl_llm import policy", "1: kl imports policy"),
        ("rl_llm/kl/x.py", "import rl_llm.curriculum.belief", "1: kl imports curriculum"),
        ("rl_llm/rollout/x.py", "from rl_llm.scoring import f", "1: rollout imports scoring"),
        ("rl_llm/scoring/x.py", "from rl_llm.rollout import f", "1: scoring imports rollout"),
        ("rl_llm/algorithms/x.py", "from rl_llm.config import f", "1: algorithms imports config"),
        ("rl_llm/errors.py", "def f():\n  import rl_llm.cli.main", "2: errors imports cli"),
        ("rl_llm/cli/x.py", "import scripts.train", "1: cli imports the folder scripts"),
        ("rl_llm/cli/x.py", "from parts.kl import run", "1: cli imports the folder parts"),
        ("scripts/parts/kl/x.py", "import bench_kl", "1: a part imports the program bench_kl"),
        ("rewards/x.py", "import rewards.y", "1: rewards imports the folder rewards"),
        ("rl_llm/novel/x.py", "", "1: novel has no place among the levels"),
        ("rl_llm/kl/x.py", "import torch.nn", "1: kl imports torch at run time"),
        ("rewards/x.py", "from torch import nn", "1: rewards imports torch at run time"),
        (
            "rl_llm/policy/model.py",
            "from accelerate import Accelerator",
            "1: accelerate is imported outside rl_llm/policy/ranks.py",
        ),
        ("data/x.py", "import vllm", "1: vllm is imported outside rl_llm/rollout/vllm_engine.py"),
        ("rl_llm/kl/x.py", "print(1)", "1: print outside cli and scripts"),
        ("rl_llm/kl/x.py", LONG, "1: long has 61 lines, at most 60 in a function"),
        ("scripts/x.py", "\n" * 401, "401: 401 lines, at most 400 in a file"),
        ("scripts/parts/kl/x.py", LONG, "1: long has 61 lines, at most 60 in a function"),
    ],
)
def test_a_violation_is_caught(path, source, fault):
    assert faults(path, source) == [f"{path}:{fault}"]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("rl_llm/policy/x.py", "from rl_llm.algorithms import f\nimport torch, peft"),
        ("rl_llm/kl/x.py", "if TYPE_CHECKING:\n    from torch import Tensor"),
        ("rl_llm/kl/x.py", "from rl_llm.kl.controllers import f"),
        ("rl_llm/cli/x.py", "from rl_llm import __version__\nprint(__version__)"),
        ("scripts/x.py", "import accelerate, rl_llm.cli.main"),
        ("scripts/x.py", "from parts.kl.arms import Spec"),
        ("scripts/parts/kl/x.py", "import vllm, rl_llm.cli.main\nfrom parts.shared import runs"),
        ("scripts/x.py", LONG.removesuffix("    x = 1\n") + "\n" * 340),
    ],
)
def test_what_the_rules_allow_passes(path, source):
    assert faults(path, source) == []
