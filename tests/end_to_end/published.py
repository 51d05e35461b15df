"""A made-up world as the public sources would give it, and the command line with a door to it.

URLs are those of the real hosts; one web server on loopback answers for all of them. Xeno-canto has the recordings of
animals that nobody photographed, iNaturalist and GBIF share the others, a table names files on this machine. What is
wrong with the outside is here as well: pages in the place of sounds, files that are gone, names of two species, the
same photo from two sources.
"""

import hashlib
import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

for _folder in ("data", "sources"):
    sys.path.append(str(Path(__file__).parents[1] / _folder))

from archives import gbif_files, write_zip  # noqa: E402
from fault_server import FaultServer  # noqa: E402

from biovita import cli, log  # noqa: E402
from biovita.commands import data  # noqa: E402
from biovita.sources.address import Policy  # noqa: E402
from biovita.sources.budget import Budget, Budgets  # noqa: E402
from biovita.sources.http import Door  # noqa: E402
from biovita.sources.inaturalist import BUCKET  # noqa: E402
from biovita.sources.kinds import HOSTS  # noqa: E402
from biovita.taxonomy.rank import RANKS  # noqa: E402
from biovita.world.publish import damaged_files  # noqa: E402

MUSEUM = "media.museum.example"  # publishes through GBIF; the run file allows its host
SOURCES = ("xeno-canto:xc", "inaturalist:inat", "inaturalist:open-data", "gbif:gbif.zip", "files:files/files.tsv")
CAP = 5  # pictures of a species
ABOVE = RANKS[:-1]
CLASSES = {"Plumata": "Aves", "Villosa": "Mammalia", "Saltantia": "Amphibia", "Hexalata": "Insecta"}
GROUPS = {"Aves": "birds", "Mammalia": "land mammals", "Amphibia": "frogs", "Insecta": "grasshoppers"}
CODES = {"CC0-1.0": "cc0", "CC-BY-4.0": "cc-by", "CC-BY-NC-4.0": "cc-by-nc"}
DEEDS = {
    "CC0-1.0": "//creativecommons.org/publicdomain/zero/1.0/",
    "CC-BY-4.0": "//creativecommons.org/licenses/by/4.0/",
    "CC-BY-NC-4.0": "//creativecommons.org/licenses/by-nc/4.0/",
}
GRAZERS = {  # the columns of COMBINE, for every mammal of the world
    **dict.fromkeys(("dphy_invertebrate", "dphy_vertebrate", "det_inv", "det_vend", "det_vect", "det_vfish"), "0"),
    **dict.fromkeys(("det_vunk", "det_scav", "det_fruit", "det_nect", "det_seed", "freshwater", "marine"), "0"),
    **dict.fromkeys(("dphy_plant", "det_plantother"), "100"),
    **{"terrestrial_volant": "0", "terrestrial_non-volant": "1", "trophic_level": "1", "activity_cycle": "3"},
    **{"foraging_stratum": "G", "social_group_n": "7"},
}


@dataclass(frozen=True)
class Ran:
    """What a command left."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Outside:
    """The published world, and the server of its media.

    Attributes:
        bad: what should be refused, by media_id, and why.
        torn: observations whose photo and sound come from two sources.
    """

    folder: Path
    server: FaultServer
    bad: dict[str, str]
    torn: list[str]

    def __call__(self, *words: object) -> Ran:
        """Run the command line in this process, in the published folder, with a door to the server alone."""
        with (
            pytest.MonkeyPatch.context() as patch,
            redirect_stdout(io.StringIO()) as out,
            redirect_stderr(io.StringIO()) as err,
        ):
            lead_to(patch, self.folder, self.server.port)
            patch.setattr(sys, "argv", ["biovita", *map(str, words)])
            for flag in ("json", "quiet", "offline"):  # as they were, when it is over
                patch.setattr(log.SETTINGS, flag, False)
            code = cli.main()
        return Ran(code, out.getvalue(), err.getvalue())

    def build(self, out: Path, *words: object) -> Ran:
        """Run `biovita data build` on the run file."""
        return self("data", "build", "run.toml", "--out", out, *words)


class Wire(httpx.HTTPTransport):
    """Every host of the world is one server on this machine; the path alone says what is asked for."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.url = request.url.copy_with(scheme="http", host="127.0.0.1", port=self.port)
        return super().handle_request(request)


def lead_to(patch: pytest.MonkeyPatch, folder: Path, port: int) -> None:
    """Stand in the published folder, with a door of the real rules on a wire to the server, and no rate to wait for."""

    def open_door(hosts: tuple[str, ...], contact: str) -> Door:
        policy = Policy(hosts=(*HOSTS, *hosts))
        budgets = Budgets(folder / "budgets.sqlite", [Budget(hosts=policy.hosts, per_second=2000.0)])
        return Door(policy, budgets, contact=contact, transport=Wire(port), backoff_s=0.01)

    patch.chdir(folder)
    patch.setattr(data, "_open_door", open_door)


def publish(world: Path, folder: Path, server: FaultServer) -> Outside:
    """Share a world out among the sources, add what is wrong, and write it all into a folder with its `run.toml`."""
    publisher = Publisher(world, folder, server)
    publisher.share_out()
    publisher.add_trouble()
    publisher.write()
    return Outside(folder, server, publisher.bad, publisher.torn)


def path_of(url: str) -> str:
    """Return what the server knows a URL by."""
    return url.split("/", 3)[3]


class Publisher:
    """Hands the records of a world to the sources, one after another."""

    def __init__(self, world: Path, folder: Path, server: FaultServer) -> None:
        self.world, self.folder, self.server = world, folder, server
        self.records = pl.read_parquet(world / "records.parquet")
        self.taxa = pl.read_parquet(world / "taxa.parquet").with_columns(
            pl.col("class").replace(CLASSES), pl.col("phylum").replace("Spinata", "Chordata")
        )
        self.taxon = {row["species"]: row for row in self.taxa.iter_rows(named=True)}
        names = dict.fromkeys(row[rank] for rank in RANKS for row in self.taxon.values())
        self.number = {name: n for n, name in enumerate(names, 1)}
        self.xc: list[dict[str, Any]] = []
        self.inat: list[dict[str, Any]] = []
        self.photos: list[dict[str, str]] = []  # of the open data
        self.occurrences: list[dict[str, str]] = []
        self.media: list[dict[str, str]] = []  # of the occurrences
        self.files: list[dict[str, str]] = []
        self.bad: dict[str, str] = {}
        self.torn: list[str] = []

    def put(self, record: dict[str, Any], url: str) -> str:
        """Give a file of the world a place on the server, and return its URL."""
        self.server.bodies[path_of(url)] = (self.world / record["path"]).read_bytes()
        return url

    def share_out(self) -> None:
        (self.folder / "files").mkdir()
        n_pairs = 0
        for n, rows in enumerate(self.records.partition_by("individual", maintain_order=True), 1):
            media = list(rows.iter_rows(named=True))
            modalities = {medium["modality"] for medium in media}
            n_pairs += len(modalities) == 2
            if modalities == {"audio"}:
                self.on_xeno_canto(n, media[0])
            elif modalities == {"image"}:
                (self.at_gbif if n % 2 else self.on_disk)(n, media[0])
            elif n_pairs % 5 < 3:
                self.on_inaturalist(n, media, ("api", "gbif", "open data")[n_pairs % 5])
            else:
                for i, medium in enumerate(media):
                    (self.at_gbif if n_pairs % 5 == 3 else self.on_disk)(10 * n + i, medium)

    def on_xeno_canto(self, n: int, record: dict[str, Any], **other: str) -> None:
        genus, epithet = record["scientific_name"].split()
        self.xc.append(
            {
                "id": str(n),
                "gen": genus,
                "sp": epithet,
                "grp": GROUPS.get(self.taxon[record["scientific_name"]]["class"], ""),
                "en": record["common_name"],
                "rec": record["rights_holder"],
                "lat": str(record["latitude_deg"]),
                "lon": str(record["longitude_deg"]),
                "url": f"//xeno-canto.org/{n}",
                "file": other.get("file") or self.put(record, f"https://xeno-canto.org/{n}/download"),
                "lic": DEEDS[record["licence"]],
                "q": record["quality"],
                "date": f"{record['recorded_at']:%Y-%m-%d}",
                "time": f"{record['recorded_at']:%H:%M}",
                **other,
            }
        )

    def on_inaturalist(self, n: int, media: list[dict[str, Any]], photos_are: str) -> None:
        """Publish an observation: its sound in an answer of the API; its photo there, at GBIF or in the open data."""
        about = self.taxon[media[0]["scientific_name"]]
        ancestors = [{"id": self.number[about[rank]], "rank": rank, "name": about[rank]} for rank in ABOVE]
        sounds, photos = [], []
        for medium in media:
            suffix, code = Path(medium["path"]).suffix, CODES[medium["licence"]]
            if medium["modality"] == "audio":
                url = self.put(medium, f"https://static.inaturalist.org/sounds/{n}{suffix}")
                sounds.append({"id": n, "license_code": code, "file_url": f"{url}?162"})
                continue
            url = self.put(medium, f"{BUCKET}/{n}/original{suffix}")
            if photos_are == "api":
                photos.append({"id": n, "license_code": code, "url": url.replace("original", "square") + "?162"})
            elif photos_are == "gbif":
                self.at_gbif(n, medium, url=url, occurrenceID=f"https://www.inaturalist.org/observations/{n}")
            else:
                photo = {"photo_id": str(n), "observation_uuid": f"uuid-{n}", "observer_id": "1"}
                self.photos.append({**photo, "extension": suffix[1:], "license": code, "taxon": about["species"]})
        self.inat.append(
            {
                "id": n,
                "uuid": f"uuid-{n}",
                "observed_on": f"{media[0]['recorded_at']:%Y-%m-%d}",
                "location": f"{media[0]['latitude_deg']},{media[0]['longitude_deg']}",
                "quality_grade": "research",
                "user": {"login": media[0]["rights_holder"]},
                "taxon": {
                    "id": self.number[about["species"]],
                    "name": about["species"],
                    "preferred_common_name": about["common_name"],
                    "ancestor_ids": [ancestor["id"] for ancestor in ancestors],
                    "ancestors": ancestors,
                },
                "sounds": sounds,
                "photos": photos,
            }
        )
        if photos_are != "api":
            self.torn.append(f"inat:{n}")

    def at_gbif(self, n: int, record: dict[str, Any], *, url: str = "", **other: str) -> str:
        """Publish an occurrence with one medium; return its media_id."""
        about = self.taxon[record["scientific_name"]]
        self.occurrences.append(
            {
                "gbifID": str(n),
                "occurrenceID": f"museum:{n}",
                "basisOfRecord": "HUMAN_OBSERVATION",
                "scientificName": f"{record['scientific_name']} Alder, 1901",
                "eventDate": f"{record['recorded_at']:%Y-%m-%dT%H:%M:%SZ}",
                **{rank: about[rank] for rank in ABOVE},
                **other,
            }
        )
        url = url or self.put(record, f"https://{MUSEUM}/{n}{Path(record['path']).suffix}")
        self.media.append(
            {
                "gbifID": str(n),
                "type": "Sound" if record["modality"] == "audio" else "StillImage",
                "identifier": url,
                "license": f"http:{DEEDS[record['licence']]}legalcode",
                "rightsHolder": record["rights_holder"],
            }
        )
        return f"gbif:{n}:{hashlib.blake2b(url.encode(), digest_size=6).hexdigest()}"

    def on_disk(self, n: int, record: dict[str, Any], path: str = "") -> None:
        if not path:
            path = f"{n}{Path(record['path']).suffix}"
            (self.folder / "files" / path).write_bytes((self.world / record["path"]).read_bytes())
        row = {name: record[name] for name in ("scientific_name", "modality", "licence", "rights_holder", "individual")}
        self.files.append({"path": path, **row})

    def add_trouble(self) -> None:
        server = self.server
        call = next(self.records.filter(modality="audio").iter_rows(named=True))
        photos = self.records.filter(modality="image").sort(pl.len().over("scientific_name"), "media_id")
        # of another species each, which have so few that no cap leaves out what is wrong with them
        rare = list(photos.unique("scientific_name", keep="first", maintain_order=True).head(4).iter_rows(named=True))
        slow, moved, copied = self.xc[:3]
        for recording, kind, body in ((slow, "503_burst", "503_burst"), (moved, "redirect", "plain_2")):
            server.bodies[body] = server.bodies.pop(path_of(recording["file"]))
            recording["file"] = f"https://xeno-canto.org/{kind}"
        other_group = next(group for group in GROUPS.values() if group != slow["grp"])
        for n, trouble, reason in (
            (901, {"file": "https://xeno-canto.org/404?901"}, "download_failed"),
            (902, {"file": "https://xeno-canto.org/html_with_200?902"}, "html_document"),
            (903, {"gen": "Mystery", "sp": "mystery"}, "name_unresolved"),
            (904, {"lic": ""}, "licence_refused"),
            (905, {"grp": other_group, "gen": slow["gen"], "sp": slow["sp"]}, "name_unresolved"),
        ):
            self.on_xeno_canto(n, call, **{"file": f"https://xeno-canto.org/{n}/download", **trouble})
            self.bad[f"xc:{n}"] = reason
        self.on_xeno_canto(906, call, file=" ")  # a species under threat: it is counted, and no record
        shown = next(observation for observation in self.inat if observation["photos"])
        again = shown["photos"][0]["url"].replace("square", "original").removesuffix("?162")
        server.bodies["copy.wav"] = server.bodies[path_of(copied["file"])]
        there = {**call, "scientific_name": f"{copied['gen']} {copied['sp']}"}
        for n, record, url, name, reason in (
            (911, {**rare[0], "scientific_name": shown["taxon"]["name"]}, again, "", "duplicate"),
            (912, there, f"https://{MUSEUM}/copy.wav", "", ""),  # or the one of Xeno-canto
            (913, rare[0], "https://elsewhere.example/913.jpg", "", "download_failed"),
            (914, rare[1], f"http://{MUSEUM}/914.jpg", "", "download_failed"),
            (915, rare[0], f"https://{MUSEUM}/915.jpg", "Gladola celeris/undulirubra", "name_unresolved"),
        ):
            media_id = self.at_gbif(n, record, url=url, **({"scientificName": name} if name else {}))
            self.bad |= {media_id: reason} if reason else {}
        damaged = damaged_files(self.folder / "damaged")
        (self.folder / "files" / "cut.jpg").write_bytes(damaged["truncated_image"].read_bytes())
        for path, photo, reason in (
            ("cut.jpg", rare[2], "truncated"),
            ("gone.jpg", rare[3], "unreadable"),
            ("../damaged/whole.jpg", rare[0], "unsafe_name"),
        ):
            self.on_disk(0, photo, path)
            self.bad[f"folder:{path}"] = reason

    def write(self) -> None:
        """Write what the sources would give, the name lists, a trait table and the run file."""
        for name, key, rows, per_page in (("xc", "recordings", self.xc, 10), ("inat", "results", self.inat, 15)):
            (self.folder / name).mkdir()
            n_pages = -(-len(rows) // per_page)
            for n in range(n_pages):
                page = {"numPages": n_pages, key: rows[n * per_page : (n + 1) * per_page]}
                (self.folder / name / f"page_{n + 1:05d}.json").write_text(json.dumps(page))
        self.write_open_data()
        write_zip(self.folder / "gbif.zip", gbif_files(self.occurrences, self.media))
        pl.DataFrame(self.files).write_csv(self.folder / "files" / "files.tsv", separator="\t")
        self.taxa.write_csv(self.folder / "taxa.csv")
        for language, ending in (("en", ""), ("de", "vogel")):
            names = [f"{species}_{row['common_name']}{ending}" for species, row in self.taxon.items()]
            (self.folder / f"{language}.txt").write_text("\n".join(names))
        (self.folder / "traits").mkdir()
        mammals = self.taxa.filter(pl.col("class") == "Mammalia")
        mammals.select(
            *("order", "family", "genus", pl.col("species").str.split(" ").list.last()),
            *(pl.lit(value).alias(column) for column, value in GRAZERS.items()),
        ).write_csv(self.folder / "traits" / "COMBINE_trait_data_imputed.csv")
        run = {
            "sources": list(SOURCES),
            "taxa": ["taxa.csv", "de.txt", "en.txt"],
            "traits": "traits",
            "max_images": CAP,
            "seed": 3,
            "withheld": 2,
            "contact": "tests@example.org",
            "hosts": [MUSEUM],
        }
        (self.folder / "run.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in run.items()))

    def write_open_data(self) -> None:
        (self.folder / "open-data").mkdir()
        lineages = [[row[rank] for rank in RANKS] for row in self.taxon.values()]
        taxa = {names[i]: (RANKS[i], names[:i]) for names in lineages for i in range(len(RANKS))}
        tables = {
            "observations": [
                {"observation_uuid": photo["observation_uuid"], "latitude": "1.5", "longitude": "2.5",
                 "taxon_id": str(self.number[photo["taxon"]]), "quality_grade": "research", "observed_on": "2020-05-01"}
                for photo in self.photos
            ],
            "photos": [{name: value for name, value in photo.items() if name != "taxon"} for photo in self.photos],
            "taxa": [
                {"taxon_id": str(self.number[name]), "ancestry": "/".join(str(self.number[one]) for one in above),
                 "rank": rank, "name": name, "active": "true"}
                for name, (rank, above) in taxa.items()
            ],
            "observers": [{"observer_id": "1", "login": "ada", "name": "Ada Alder"}],
        }  # fmt: skip
        for name, rows in tables.items():
            path = self.folder / "open-data" / f"{name}.csv"
            pl.DataFrame(rows).write_csv(path, separator="\t", quote_style="never")
