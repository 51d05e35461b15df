"""Each outside library has its doors: the modules that import it. Read from the syntax tree, also inside functions."""

import ast
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "biovita"

# library -> patterns of modules that may import it, and each pattern must be used by one
DOORS: dict[str, tuple[str, ...]] = {
    "soundfile": ("media.audio",),
    "soxr": ("media.audio",),
    "scipy": ("media.fingerprint",),
    "av": ("media.audio", "media.check_audio"),
    "PIL": (
        "media.*",
        "world.*",
        "web.draw",
        "models.processor",
        "models.encoder",
        "models.pieces",
        "train.augment",
        "commands.doctor",
    ),
    "simplejpeg": ("media.image",),
    "onnx": ("models.export",),
    "onnxruntime": ("models.export",),
    "onnxscript": ("models.export",),
    "openvino": ("models.export",),
    "accelerate": ("train.engine", "train.step"),
    "peft": ("train.lora",),
    "wandb": ("train.track",),
    "mlflow": ("train.track",),
    "transformers": ("models.*",),
    "ftfy": ("models.processor",),
    "tokenizers": ("models.processor",),
    "safetensors": ("models.*", "train.checkpoint"),
    "huggingface_hub": ("models.hub", "bench.fetch"),
    "sklearn": ("report.space", "bench.traits", "search.labels"),
    "lancedb": ("search.archive",),
    "guano": ("media.headers",),
    "metamoth": ("media.headers",),
    "fastapi": ("web.*",),
    "starlette": ("web.*",),
    "uvicorn": ("web.server",),
    "matplotlib": ("report.plots", "report.card_plots"),
    "jinja2": ("report.html", "web.pages"),
    "dwca": ("sources.darwin_core",),
    "httpx": ("sources.http",),
    "httpcore": ("sources.http",),
    "nameparser": ("taxonomy.parse",),
    "polars_hash": ("data.split",),
    "ray": ("data.scale",),
    "mteb": ("bench.mteb_bridge",),
    "datasets": ("bench.mteb_bridge",),
    "webdataset": ("data.shards",),
    "tyro": ("config", "commands.*"),
    "torch": ("models.*", "train.*", "commands.train", "commands.doctor"),
    "pyarrow": ("embed.store", "tables", "data.*", "bench.*", "report.*", "world.*", "search.archive"),
}
CLOSED = ("requests", "urllib", "urllib3", "http", "aiohttp", "ftplib")
FREE_OF_NUMBERS = ("errors", "files", "log", "config", "cli", "__main__")


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(SRC.rglob("*.py"))
    }


def imports(path: Path) -> set[str]:
    """Top-level names of everything that a module imports, lazily or not."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            found |= {arg.value.split(".")[0] for arg in node.args if isinstance(arg, ast.Constant)}
    return found


IMPORTS = {name: imports(path) for name, path in modules().items()}


@pytest.mark.parametrize("library", DOORS)
def test_only_the_doors_import_their_library(library: str) -> None:
    inside = {name for name, found in IMPORTS.items() if library in found}
    assert inside, f"nothing imports {library} any more; close its doors"
    strangers = {name for name in inside if not any(fnmatchcase(name, door) for door in DOORS[library])}
    assert not strangers


@pytest.mark.parametrize("library", CLOSED)
def test_nothing_speaks_to_a_network_or_a_library_that_has_no_door_yet(library: str) -> None:
    assert not {name for name, found in IMPORTS.items() if library in found}


@pytest.mark.parametrize("name", FREE_OF_NUMBERS)
def test_the_lowest_modules_need_no_numbers(name: str) -> None:
    assert not IMPORTS[name] & {"numpy", "polars", *DOORS} - ({"tyro"} if name == "config" else set())


def test_every_outside_library_is_a_stated_dependency() -> None:
    import sys
    import tomllib

    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {line.split(">=")[0].split("==")[0].strip() for line in stated}
    packages = {
        "PIL": "pillow",
        "sklearn": "scikit-learn",
        "dwca": "python-dwca-reader",
        "nameparser": "gbif-name-parser",
        "polars_hash": "polars-hash",
    }
    used = set.union(*IMPORTS.values()) - set(sys.stdlib_module_names) - {"biovita"}
    missing = {packages.get(name, name) for name in used} - names
    assert missing <= {
        "huggingface_hub",
        "ray",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "openvino",
        "wandb",
        "mlflow",
        "mteb",
        "datasets",
    }  # extras, but the first


def test_packages_are_empty_so_that_a_light_module_stays_light() -> None:
    for path in SRC.rglob("*/__init__.py"):
        assert not path.read_text().strip(), path
