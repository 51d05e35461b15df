"""`biovita serve`: the page, and its JSON API."""

from dataclasses import dataclass
from pathlib import Path

from biovita.errors import WebError
from biovita.log import say


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Serve the page: identify, search and review an archive, look at results; on this machine unless told else."""

    model: Path | None = None
    """Model folder or hub name: for Identify and Search."""
    labels: Path | None = None
    """CSV, TSV or Parquet of species to choose from; default: the model's own labels.csv."""
    archive: str | None = None
    """Archive of `biovita index`: for Search, Review and Archive."""
    results: Path | None = None
    """results.json of `biovita bench score`: for Benchmark."""
    host: str = "127.0.0.1"
    """Address to listen on; any but loopback needs --token."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    name: tuple[str, ...] = ()
    """Further host names that people may type, such as that of a proxy."""
    token: str | None = None
    """What a visitor must know: at least 16 characters; the environment variable BIOVITA_TOKEN serves as well."""


def run_serve(config: Serve) -> None:
    """Serve until a signal asks to stop; what is being answered is answered first."""
    import os

    from biovita.embed.rules import rule_of
    from biovita.files import read_json
    from biovita.identify.answer import Identifier
    from biovita.identify.calibrate import read_calibration
    from biovita.identify.labels import read_labels
    from biovita.models.hub import load
    from biovita.report.inputs import read_inputs
    from biovita.report.training import is_made_up
    from biovita.search.archive import Archive
    from biovita.web.app import create_app
    from biovita.web.server import listen, run
    from biovita.web.settings import Settings

    if not (config.model or config.archive or config.results):
        raise WebError("nothing to serve; give --model, --archive or --results")
    if config.archive and not config.model:
        raise WebError("--archive: searching needs the model that the archive was made with; give --model as well")
    if config.labels and not config.model:
        raise WebError("--labels: they are for naming, which needs a model; give --model as well")
    token = config.token or os.environ.get("BIOVITA_TOKEN") or None
    settings = Settings(host=config.host, port=config.port, names=config.name, token=token)  # refuses before it loads
    identifier, knows_no_animal = None, False
    if config.model:
        encoder = load(str(config.model))
        labels = read_labels(encoder, table=config.labels)
        identifier = Identifier(encoder, labels, calibration=read_calibration(encoder.folder))
        run_file = encoder.folder / "run.json" if encoder.folder else None
        knows_no_animal = bool(run_file and run_file.is_file() and is_made_up(read_json(run_file)))
    archive = Archive.open(config.archive) if config.archive else None
    if archive and identifier:
        rule_of(identifier.encoder, archive.facts)  # refuses another model than the archive's
    results = read_inputs(config.results) if config.results else None
    shown = settings.showing(identifier=identifier, archive=archive, results=results, is_made_up=knows_no_animal)
    app = create_app(shown)
    with listen(config.host, config.port) as socket:
        say(f"the page is at {address(config.host, socket.getsockname()[1])} (Ctrl-C stops it)")
        run(app, socket)


def address(host: str, port: int) -> str:
    """Write what people type."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
