"""What no line of the source may do."""

import ast
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "biovita"
SOURCES = sorted(SRC.rglob("*.py"))
TEXT_SUFFIXES = {
    ".py",
    ".md",
    ".toml",
    ".cfg",
    ".yml",
    ".yaml",
    ".txt",
    ".lock",
    ".json",
    ".html",
    ".css",
    ".js",
    ".sh",
}
# Spelled in two parts, so that this file does not name what it looks for.
REGISTRIES = tuple(
    "".join(parts)
    for parts in (
        *(("py", "pi.org"), ("pypi.", "python.org"), ("python", "hosted.org"), ("download.py", "torch.org")),
        *(
            ("registry.npm", "js.org"),
            ("npm", "js.com"),
            ("anaconda", ".org"),
            ("conda", ".anaconda"),
            ("crates", ".io"),
        ),
        *(("proxy.go", "lang.org"), ("rubygems", ".org"), ("un", "pkg.com"), ("js", "delivr.net"), ("cdn", "js.")),
    )
)


NODES = [(path, node) for path in SOURCES for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]


def name_of(node: ast.expr) -> str:
    return ast.unparse(node)


def test_no_handler_swallows_every_error() -> None:
    """A handler of everything is allowed where it raises again, or where the error itself is what it tells."""
    for path, node in NODES:
        if isinstance(node, ast.ExceptHandler):
            caught = "" if node.type is None else name_of(node.type)
            broad = node.type is None or re.search(r"\b(Base)?Exception\b", caught)
            raises = any(isinstance(inner, ast.Raise) and inner.exc is None for inner in node.body)
            told = node.name and any(isinstance(inner, ast.Name) and inner.id == node.name for inner in ast.walk(node))
            assert raises or told or not broad, f"{path}:{node.lineno}: except {caught}"
        if isinstance(node, ast.Call) and name_of(node.func).endswith("suppress"):
            assert not {name_of(arg) for arg in node.args} & {"Exception", "BaseException"}, f"{path}:{node.lineno}"


@pytest.mark.parametrize(
    "function",
    ["torch.load", "torch.save", "eval", "exec", "compile", "os.system", "os.popen", "yaml.load", "marshal.loads"],
)
def test_no_call_runs_what_a_file_or_a_user_says(function: str) -> None:
    door = SRC / "models" / "pickles.py"  # its one torch.load says weights_only=True (the next test)
    for path, node in NODES:
        if isinstance(node, ast.Call) and not (path == door and function in ("torch.load", "torch.save")):
            assert name_of(node.func) != function, f"{path}:{node.lineno}"


def test_the_one_door_for_pickles_reads_weights_only() -> None:
    calls = [node for _, node in NODES if isinstance(node, ast.Call) and name_of(node.func) == "torch.load"]
    assert [ast.unparse(word) for call in calls for word in call.keywords if word.arg == "weights_only"] == [
        "weights_only=True"
    ]


def test_nothing_reads_or_writes_pickles() -> None:
    for path, node in NODES:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {alias.name for alias in node.names} | {getattr(node, "module", "") or ""}
            assert not names & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}, path
        if isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "trust_remote_code", "shell"):
            assert isinstance(node.value, ast.Constant), f"{path}:{node.value.lineno}: {node.arg}"
            assert node.value.value is False, f"{path}:{node.value.lineno}: {node.arg}"
        if isinstance(node, ast.keyword) and node.arg == "use_safetensors":
            assert name_of(node.value) == "True", path


def test_names_in_the_code_are_plain_ascii() -> None:
    for path in SOURCES:
        with path.open("rb") as file:
            for token in tokenize.tokenize(file.readline):
                assert token.type != tokenize.NAME or token.string.isascii(), f"{path}:{token.start[0]}: {token.string}"


def test_library_code_sets_no_global_seed() -> None:
    """Streams are `default_rng([seed, purpose, ...])`; torch's own is set in a command, or inside `fork_rng`."""
    for path, node in NODES:
        if isinstance(node, ast.Call):
            name = name_of(node.func)
            assert not name.startswith(("np.random.seed", "random.seed", "torch.cuda.manual_seed")), path
            if name == "torch.manual_seed":
                where = path.relative_to(SRC).as_posix()
                assert where in ("models/hub.py", "commands/train.py"), where


def kept_files() -> list[Path]:
    """Files of the repository, without what is made or installed."""
    folders = [ROOT / name for name in ("src", "tests", "tools", "docs", "benchmarks", "runs", ".ci", ".github")]
    inside = [path for folder in folders if folder.is_dir() for path in folder.rglob("*") if path.is_file()]
    beside = [path for path in ROOT.iterdir() if path.is_file()]
    return [
        path
        for path in sorted({*inside, *beside})
        if "__pycache__" not in path.parts and (path.suffix in TEXT_SUFFIXES or not path.suffix)
    ]


def test_no_file_names_a_package_registry() -> None:
    assert len(kept_files()) > 100
    for path in kept_files():
        text = path.read_text(encoding="utf-8", errors="replace").lower()
        assert not [host for host in REGISTRIES if host in text], path


def test_pages_that_we_write_load_nothing_from_elsewhere() -> None:
    folders = (SRC / "report" / "templates", SRC / "web" / "templates", SRC / "web" / "static")
    pages = [path for folder in folders for path in folder.iterdir() if path.suffix in (".html", ".css", ".js", ".svg")]
    assert {path.parent for path in pages} == {*folders}
    for path in pages:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(src|href)\s*=\s*[\"'](https?:)?//|@import|url\(\s*[\"']?https?:", text), path
