"""Architecture: imports point down, names resolve, files stay small."""

import ast

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
