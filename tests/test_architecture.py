"""The house stands: imports go down or across, never up, never round; files stay near one idea."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "hornbook"
CEILING = 450

# The longest prefix decides. A new room must be given its floor here.
FLOORS = {
    "types": 0, "errors": 0, "settings": 0, "forking": 0, "__init__": 6,
    "text": 1, "model": 1, "kernels": 1,
    "checkpoint": 2, "adapt": 2, "engine": 2,
    "data": 3, "train": 3, "llm": 3, "retrieve": 3,
    "rag": 4, "reason": 4, "agents": 4, "evals": 4, "guard": 4,
    "recipes": 5, "serve": 5, "cli": 5, "__main__": 6,
}  # fmt: skip
TENSOR_FLOORS = ("torch",)  # only floors 1 to 3 may know tensors
REFERENCES = (
    "transformers peft trl sentence_transformers langchain llama_index llama_cpp xllamacpp lm_eval gguf bm25s pickle"
)

# A model of the harness is a class of its own class; nothing of ours imports this file.
ADAPTERS = {"evals.harness": {"lm_eval"}}


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


FILES = {module_name(path): path for path in sorted(SRC.rglob("*.py"))}


def floor(module: str) -> int:
    room = module.split(".")[0]
    assert room in FLOORS, f"{module} is in no room: give it a floor in tests/test_architecture.py"
    return FLOORS[room]


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """The absolute names that a file imports, those under TYPE_CHECKING left out."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.orelse:
                visit(child)
            return
        if top_level_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the import in full"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            # `from package import module` needs the module; anything else needs what the package itself defines
            found.update(
                names if all(name.removeprefix("hornbook.") in FILES for name in names) else names | {node.module}
            )
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text("utf-8")))
    return found


def own(names: set[str]) -> set[str]:
    """The modules of this house among imported names."""
    inside = {name.removeprefix("hornbook.") for name in names if name.startswith("hornbook.")}
    return {name for name in inside if name in FILES}


@pytest.mark.parametrize("module", FILES)
def test_no_import_climbs_a_floor(module: str) -> None:
    climbs = {used for used in own(imports(FILES[module])) if floor(used) > floor(module)}
    assert not climbs, f"{module} (floor {floor(module)}) imports from above: {sorted(climbs)}"


def test_no_import_goes_round() -> None:
    graph = {m: own(imports(path, top_level_only=True)) - {m} for m, path in FILES.items() if m != "__init__"}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"modules import each other in a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("module", FILES)
def test_a_file_is_one_idea(module: str) -> None:
    lines = len(FILES[module].read_text("utf-8").splitlines())
    assert lines <= CEILING, f"{module} has {lines} lines, the ceiling is {CEILING}: is it one idea?"


@pytest.mark.parametrize("module", FILES)
def test_no_reference_library_and_no_pickle_in_src(module: str) -> None:
    used = {name.split(".")[0] for name in imports(FILES[module])} & set(REFERENCES.split()) - ADAPTERS.get(
        module, set()
    )
    assert not used, f"{module} imports {sorted(used)}: references belong to the tests"


@pytest.mark.parametrize("module", [m for m in FILES if floor(m) in (0, 4, 5)])
def test_tensors_stay_on_their_floors(module: str) -> None:
    used = {name.split(".")[0] for name in imports(FILES[module], top_level_only=True)} & set(TENSOR_FLOORS)
    assert not used, f"{module} (floor {floor(module)}) imports {sorted(used)}"


@pytest.mark.parametrize("module", ADAPTERS)
def test_nothing_imports_what_only_adapts_us_to_another_program(module: str) -> None:
    assert not [name for name, path in FILES.items() if module in own(imports(path))]


def test_every_test_mirrors_a_room() -> None:
    rooms = {path.name for path in Path(__file__).parent.iterdir() if path.is_dir() and not path.name.startswith("_")}
    assert rooms - {"data"} <= set(FLOORS), f"folders of tests without a room: {rooms - set(FLOORS)}"
