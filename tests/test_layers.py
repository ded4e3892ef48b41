"""The floors of the house: imports point down only, rooms on one floor do not import each other."""

import ast
import pathlib

import o1jax

HOUSE = pathlib.Path(o1jax.__file__).parent
FLOORS = {
    "records": 0, "buckets": 0, "concurrency": 0, "digits": 0, "intervals": 0, "writing": 1,
    "parallel": 1,
    "store": 2, "problems": 2, "prompts": 2, "sandbox": 2, "model": 2, "losses": 2, "batches": 2,
    "engine": 3, "train": 3, "rewards": 3, "report": 3,
    "stages": 4, "plan": 4,
    "prepare": 5,
    "search": 6,
    "policy": 7,
    "prm": 8, "rl": 8, "tcg": 8,
    "evaluation": 9, "lineage": 9,
    "recipes": 10,
}  # fmt: skip
HEAVY = ("vllm", "torch", "libtpu")
HEAVY_ALLOWED = {"engine/vllm_engine/in_process.py"}
MOST_MODULES = 14  # of a folder: what a person keeps in mind


def imports_of(path: pathlib.Path) -> list[tuple[str, int]]:
    """(absolute dotted module, column) of every import in a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.col_offset) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write it absolute"
            module = node.module or ""
            if module == "o1jax":
                found += [(f"o1jax.{alias.name}", node.col_offset) for alias in node.names]
            else:
                found.append((module, node.col_offset))
    return found


def room_of(path: pathlib.Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def sources() -> list[pathlib.Path]:
    return [p for p in sorted(HOUSE.rglob("*.py")) if room_of(p) != "__init__"]


def violation(room: str, target: str) -> bool:
    """Whether `room` may not import `target`: another room on its floor, or a room above."""
    return target != room and FLOORS[target] >= FLOORS[room] and FLOORS[room] + FLOORS[target] > 0


def test_every_room_has_a_floor():
    assert {room_of(p) for p in sources()} <= set(FLOORS)


def test_imports_point_down_only():
    wrong = []
    for path in sources():
        for module, _ in imports_of(path):
            parts = module.split(".")
            if parts[0] == "o1jax" and len(parts) > 1 and parts[1] in FLOORS:
                if violation(room_of(path), parts[1]):
                    wrong.append(f"{path.relative_to(HOUSE)} imports {module}")
    assert not wrong, wrong


def test_the_rule_catches_an_upward_and_a_sideways_import():
    assert violation("problems", "search") and violation("problems", "prompts")
    assert not violation("search", "problems") and not violation("search", "search")


def test_no_modules_import_each_other_in_a_circle():
    modules = {".".join(p.relative_to(HOUSE.parent).with_suffix("").parts): p for p in sources()}
    targets = {name: {m for m, _ in named_by(p) if m in modules} - {name} for name, p in modules.items()}
    while ends := [name for name, of in targets.items() if not of]:
        targets = {name: of - set(ends) for name, of in targets.items() if of}
    assert not targets, f"in circles, or importing those that are: {sorted(targets)}"


def named_by(path: pathlib.Path) -> list[tuple[str, int]]:
    """As imports_of, with modules that a package is asked for by name: from package import module."""
    found = imports_of(path)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            found += [(f"{node.module}.{alias.name}", node.col_offset) for alias in node.names]
    return found


def test_a_folder_has_few_modules():
    folders = {p.parent for p in sources()}
    counts = {str(f.relative_to(HOUSE)): len(list(f.glob("*.py"))) - 1 for f in folders}
    assert {name: count for name, count in counts.items() if count > MOST_MODULES} == {}


def test_house_never_imports_launch_or_tests():
    wrong = [
        str(p)
        for p in sources()
        for m, _ in imports_of(p)
        if m.split(".")[0] in ("launch", "tests", "configs")
    ]
    assert not wrong, wrong


def test_heavy_imports_stay_in_their_file():
    wrong = [
        f"{p.relative_to(HOUSE)}: {m}"
        for p in sources()
        for m, _ in imports_of(p)
        if m.split(".")[0] in HEAVY and str(p.relative_to(HOUSE)) not in HEAVY_ALLOWED
    ]
    assert not wrong, wrong


def test_only_launch_reads_flags():
    wrong = [
        str(p) for p in sources() for m, _ in imports_of(p) if m.startswith("absl") and m != "absl.logging"
    ]
    assert not wrong, wrong
