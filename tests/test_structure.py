"""Architecture: imports point down, names resolve, files stay small."""

import ast
import importlib
import types

import pytest
from conftest import ROOT

PACKAGE = ROOT / "vaejax"
LAYERS = (
    {"errors", "types", "numerics", "keys"},
    {"hosts"},
    {"meshes"},
    {"parts", "python_files"},
    {"schema"},
    {"models"},
    {"objectives"},
    {"evidence"},
    {"consistency"},
    {"config"},
    {"data"},
    {"storage"},
    {"evaluation"},
    {"training"},
    {"runs"},
    {"laboratory", "comparison", "sweeps"},
    {"explain"},
    {"experiment", "library", "__main__"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
TESTS = sorted((ROOT / "tests").glob("*.py"))


def _module(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path):
    """First-level vaejax modules that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vaejax":
            inner = node.module.split(".")[1:]
            yield from inner[:1] or [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("vaejax."):
                    yield alias.name.split(".")[1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    own = _module(path)
    for name in _imports(path):
        if name != own:
            assert LEVEL[name] < LEVEL[own], f"{path.name} imports vaejax.{name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_stay_readable(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    assert "jax._src" not in text
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node) or node.col_offset, f"{node.name} has no docstring"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_classes_are_data(path):
    allowed = {"NamedTuple", "Module", "Protocol", "Exception", "GeneratorBasedBuilder"}
    allowed |= {"MultivariateNormal"}  # a distribution of numpyro's with a method of ours
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            bases = {
                base.attr if isinstance(base, ast.Attribute) else base.id for base in node.bases
            }
            decorated = any("dataclass" in ast.unparse(d) for d in node.decorator_list)
            assert decorated or bases & allowed, node.name


def _modules(tree):
    """The names that stand for a module of vaejax all through a file, each with its module."""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    rebound = {name.id for name in names if not isinstance(name.ctx, ast.Load)}
    rebound |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vaejax":
            for alias in node.names:
                name = alias.asname or alias.name
                found = _imported(node.module, alias.name)
                if isinstance(found, types.ModuleType) and name not in rebound:
                    yield name, found


def _imported(module, name):
    parent = importlib.import_module(module)
    if not hasattr(parent, name):
        return importlib.import_module(f"{module}.{name}")
    return getattr(parent, name)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_what_tests_use_of_a_module_is_there(path):
    """A name that moved is found here at once, not by a slow test half an hour later."""
    tree = ast.parse(path.read_text())
    modules = dict(_modules(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id)
            assert module is None or hasattr(module, node.attr), (
                f"{path.name}:{node.lineno}: {module.__name__} has no {node.attr}"
            )
