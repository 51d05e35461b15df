import json
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from biovita.bench.build import make_bench, slugs
from biovita.bench.official import open_bench, read_indices, read_task
from biovita.bench.tasks import LEVELS, SPLITS, Rules, scenarios
from biovita.errors import BenchError, DatasetError


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.csv"))}


def rows_of(folder: Path, split: str, file: str) -> list[dict]:
    table = pl.read_csv(folder / split / file, infer_schema=False)
    return [
        {**row, "taxa": json.loads(row["candidates_taxa"]), "ids": json.loads(row["candidates_target_ids"])}
        for row in table.iter_rows(named=True)
    ]


@pytest.fixture
def dataset(make_dataset, tmp_path):
    return make_dataset(tmp_path / "dataset")


def test_all_36_scenarios_are_made_and_read_back(dataset, tmp_path):
    manifest = make_bench(dataset, tmp_path / "bench", seed=1, n_candidates=5)
    bench = open_bench(tmp_path / "bench")
    assert len(bench.present) == len(manifest["scenarios"]) == 36
    assert bench.absent == {}
    for scenario in bench.present:
        task = read_task(bench.splits[scenario.split], scenario, read_indices(bench.splits[scenario.split]))
        counts = manifest["scenarios"][str(scenario)]
        assert len(task) == counts["n_queries"] > 0
        assert set(task.n_candidates) == {counts["n_candidates"]}
        assert None not in task.taxon_class


def test_the_same_seed_gives_the_same_bytes_whatever_the_order_of_the_table(make_dataset, tmp_path):
    one = make_dataset(tmp_path / "one")
    two = make_dataset(tmp_path / "two", edit=lambda media: media.sample(fraction=1, shuffle=True, seed=3))
    for dataset in (one, two):
        make_bench(dataset, dataset / "bench", seed=1, n_candidates=5)
    make_bench(one, tmp_path / "other", seed=2, n_candidates=5)
    assert bytes_of(one / "bench") == bytes_of(two / "bench")
    assert bytes_of(one / "bench") != bytes_of(tmp_path / "other")


def test_pools_hold_the_own_taxon_once_and_each_taxon_with_all_its_samples(dataset, tmp_path):
    make_bench(dataset, tmp_path / "bench", seed=1, n_candidates=5)
    bench = open_bench(tmp_path / "bench")
    for scenario in bench.present:
        indices = read_indices(bench.splits[scenario.split])
        samples = indices[scenario.target].group_by(scenario.level).agg("id")
        samples = dict(zip(samples[scenario.level], samples["id"].to_list(), strict=True))
        for row in rows_of(tmp_path / "bench", scenario.split, scenario.file):
            assert len(set(row["taxa"])) == len(row["taxa"])
            assert row["correct_taxon"] in row["taxa"]
            assert [sorted(ids) for ids in row["ids"]] == [sorted(samples[name]) for name in row["taxa"]]
            payload = indices[scenario.query].filter(pl.col("id") == row["query_payload_id"])
            assert payload[scenario.level].to_list() == [row["correct_taxon"]]


def test_splits_hold_test_items_only_and_share_no_species(dataset, tmp_path):
    make_bench(dataset, tmp_path / "bench", seed=1)
    media = pl.read_parquet(dataset / "media.parquet")
    for split in SPLITS:
        indices = read_indices(tmp_path / "bench" / split)
        chosen = media.filter(pl.col("split") == f"test_{split}")
        for modality in ("audio", "image"):
            assert indices[modality]["id"].to_list() == sorted(chosen.filter(modality=modality)["media_id"])
        assert set(indices["text"]["species"]) == set(chosen["species"])
    both = [set(read_indices(tmp_path / "bench" / split)["text"]["species"]) for split in SPLITS]
    assert not both[0] & both[1]


def test_every_item_with_an_answer_asks_and_text_asks_once_a_taxon(make_dataset, tmp_path):
    def without_some(media):  # species 0 has no sound, species 1 no picture
        mute = (pl.col("species") == "Genus0 sp0") & (pl.col("modality") == "audio")
        shy = (pl.col("species") == "Genus0 sp1") & (pl.col("modality") == "image")
        return media.filter(~mute & ~shy)

    dataset = make_dataset(tmp_path / "dataset", edit=without_some)
    make_bench(dataset, tmp_path / "bench", seed=1)

    def asked(file):
        return [row["correct_taxon"] for row in rows_of(tmp_path / "bench", "unseen", file)]

    a2i = asked("species/test_audio_to_image.csv")
    assert len(a2i) == 4 * 10
    assert not {"Genus0 sp0", "Genus0 sp1"} & set(a2i)
    assert "Genus0 sp1" in asked("species/test_audio_to_text.csv")
    for level in LEVELS:
        names = asked(f"{level}/test_text_to_audio.csv")
        assert len(names) == len(set(names)) == {"species": 11, "genus": 4, "family": 2}[level]


def test_pools_are_drawn_evenly(make_dataset, tmp_path):
    dataset = make_dataset(tmp_path / "dataset", n_species=40, n_withheld=30, n_each=20)
    make_bench(dataset, tmp_path / "bench", seed=1, n_candidates=10)
    rows = rows_of(tmp_path / "bench", "unseen", "species/test_audio_to_image.csv")
    place = np.bincount([row["taxa"].index(row["correct_taxon"]) for row in rows], minlength=10)
    rivals = pl.Series([name for row in rows for name in row["taxa"]]).value_counts()["count"].to_numpy()
    assert len(rows) == 600
    assert ((place - 60) ** 2 / 60).sum() < 27.9  # chi-square, 9 degrees, p = 0.001
    assert len(rivals) == 30
    assert rivals.min() > 150  # 200 expected, standard deviation 11


OTHER, HARD = Rules(protocol="other-species"), Rules(distractors="hard")
EVEN = Rules(balance="class")
ALL = Rules(protocol="other-species", distractors="hard", balance="class")


@pytest.mark.parametrize("rules", [OTHER, HARD, EVEN, ALL])
def test_rules_change_the_benchmark_and_each_is_reproducible_from_its_seed(make_dataset, tmp_path, rules):
    one = make_dataset(tmp_path / "one", n_species=48, n_withheld=24)
    two = make_dataset(
        tmp_path / "two", n_species=48, n_withheld=24, edit=lambda media: media.sample(fraction=1, shuffle=True, seed=3)
    )
    for out, dataset, seed, chosen in (
        *(("a", one, 1, rules), ("b", two, 1, rules), ("c", one, 2, rules)),
        *(("usual", one, 1, None), ("default", one, 1, Rules())),
    ):
        make_bench(dataset, tmp_path / out, seed=seed, n_candidates=3, rules=chosen)
    a, b, c, usual, default = (bytes_of(tmp_path / out) for out in ("a", "b", "c", "usual", "default"))
    assert a == b
    assert usual == default
    for scenario in (scenario for split in SPLITS for scenario in scenarios(split)):
        file = f"{scenario.split}/{scenario.file}"
        assert a[file] != c[file]
        if rules == OTHER and scenario.level == "species":
            assert a[file] == usual[file]
        else:
            assert a[file] != usual[file], scenario
    for name in (f"{split}/{kind}_index.csv" for split in SPLITS for kind in ("audio", "image", "text")):
        assert a[name] == usual[name]


@pytest.mark.parametrize("rules", [Rules(), OTHER, HARD, EVEN, ALL])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_pool_holds_its_match_whatever_the_rules(make_dataset, tmp_path, rules, seed):
    rng = np.random.default_rng(seed)
    dataset = make_dataset(
        tmp_path / "dataset",
        n_species=48,
        n_withheld=24,
        edit=lambda media: media.filter(pl.Series(rng.random(len(media)) < 0.7)),  # lone species, mute species
    )
    make_bench(dataset, tmp_path / "bench", seed=seed, n_candidates=5, rules=rules)
    bench = open_bench(tmp_path / "bench")
    assert len(bench.present) == 36
    for scenario in bench.present:
        indices = read_indices(bench.splits[scenario.split])
        read_task(bench.splits[scenario.split], scenario, indices)
        species = dict(indices[scenario.target].select("id", "species").iter_rows())
        samples: dict[str, set] = {}
        for item, name in indices[scenario.target].select("id", scenario.level).iter_rows():
            samples.setdefault(name, set()).add(item)
        asks = dict(indices[scenario.query].select("id", "species").iter_rows())
        is_other = rules.protocol == "other-species" and scenario.level != "species"
        for row in rows_of(tmp_path / "bench", scenario.split, scenario.file):
            assert len(row["taxa"]) == min(5, len(samples))
            for name, ids in zip(row["taxa"], row["ids"], strict=True):
                own = asks[row["query_payload_id"]] if is_other and name == row["correct_taxon"] else None
                assert ids
                assert own not in {species[item] for item in ids}
                assert set(ids) == {item for item in samples[name] if species[item] != own}
                assert ids == sorted(ids)


def test_a_taxon_asks_of_another_species_wherever_there_is_one(make_dataset, tmp_path):
    def thin(media):  # the genera of unseen species: 0 has one species with sounds, 1 two, 2 and 3 all three
        mute = pl.col("species").is_in(["Genus0 sp1", "Genus0 sp2", "Genus1 sp3"]) & (pl.col("modality") == "audio")
        return media.filter(~mute)

    dataset = make_dataset(tmp_path / "dataset", edit=thin)
    make_bench(dataset, tmp_path / "bench", seed=1, rules=OTHER)

    def asked(file):
        return [(row["correct_taxon"], row["query_payload_id"]) for row in rows_of(tmp_path / "bench", "unseen", file)]

    i2a = asked("genus/test_image_to_audio.csv")
    assert {name for name, _ in i2a} == {"Genus0", "Genus1", "Genus2", "Genus3"}
    assert {one for name, one in i2a if name == "Genus0"} == {f"world:image-{s}-{i}" for s in (1, 2) for i in range(4)}
    assert len(i2a) == 2 * 4 + 3 * 3 * 4
    a2i = asked("genus/test_audio_to_image.csv")
    assert {one for name, one in a2i if name == "Genus0"} == {f"world:audio-0-{i}" for i in range(4)}
    t2a = dict(asked("genus/test_text_to_audio.csv"))
    assert t2a == {"Genus0": "genus0_sp1", "Genus1": "genus1_sp3", "Genus2": "genus2_sp6", "Genus3": "genus3_sp10"}


@pytest.mark.parametrize("n_candidates", [2, 3, 6, 9, 14, 40])
def test_hard_pools_hold_the_family_first_then_the_order_then_any(make_dataset, tmp_path, n_candidates):
    dataset = make_dataset(tmp_path / "dataset", n_species=60, n_withheld=30)
    make_bench(dataset, tmp_path / "bench", seed=1, n_candidates=n_candidates, rules=HARD)
    ranks = pl.read_parquet(dataset / "media.parquet").select("order", "family", "genus", "species").unique()
    for split in SPLITS:
        for scenario in scenarios(split):
            there = set(read_indices(tmp_path / "bench" / split)[scenario.target][scenario.level])
            lineage = {
                row[scenario.level]: (row["family"], row["order"])
                for row in ranks.iter_rows(named=True)
                if row[scenario.level] in there
            }
            for row in rows_of(tmp_path / "bench", split, scenario.file):
                family, order = lineage[row["correct_taxon"]]
                kin = [(lineage[name][0] == family) + (lineage[name][1] == order) for name in row["taxa"]]
                wanted = sorted(((f == family) + (o == order) for f, o in lineage.values()), reverse=True)
                assert sorted(kin, reverse=True) == wanted[:n_candidates]


def test_hard_pools_are_drawn_evenly_where_relatives_are_too_many(make_dataset, tmp_path):
    dataset = make_dataset(tmp_path / "dataset", n_species=24, n_withheld=12, n_each=40)
    make_bench(dataset, tmp_path / "bench", seed=1, n_candidates=4, rules=HARD)
    rows = rows_of(tmp_path / "bench", "unseen", "species/test_audio_to_image.csv")
    place = np.bincount([row["taxa"].index(row["correct_taxon"]) for row in rows], minlength=4)
    rivals = pl.Series([name for row in rows for name in row["taxa"]]).value_counts()["count"].to_numpy()
    assert len(rows) == 480
    assert ((place - 120) ** 2 / 120).sum() < 16.3  # chi-square, 3 degrees, p = 0.001
    assert len(rivals) == 12
    assert rivals.min() > 120  # 160 expected, 40 of them sure; standard deviation 7


def test_taxa_of_unknown_family_and_order_are_nobodys_relatives(make_dataset, tmp_path):
    def nameless(media):
        lost = pl.when(pl.col("genus") == "Genus1").then(None)
        return media.with_columns(lost.otherwise(rank).alias(rank) for rank in ("family", "order"))

    dataset = make_dataset(tmp_path / "dataset", edit=nameless)
    make_bench(dataset, tmp_path / "bench", seed=1, n_candidates=4, rules=HARD)
    rivals = set()
    for row in rows_of(tmp_path / "bench", "unseen", "species/test_audio_to_image.csv"):
        if row["correct_taxon"].startswith("Genus1 "):
            rivals |= set(row["taxa"])
        elif row["correct_taxon"].startswith("Genus0 "):  # its family has no other genus with a family
            assert {f"Genus0 sp{s}" for s in range(3)} <= set(row["taxa"])
            assert not any(name.startswith("Genus1 ") for name in row["taxa"])
    assert {name.split()[0] for name in rivals} == {"Genus0", "Genus1", "Genus2", "Genus3"}


def test_balanced_classes_ask_equally_often(make_dataset, tmp_path):
    def rare(media):  # Family1 is the one of its class among the unseen, and has few files
        few = (pl.col("family") == "Family1") & ~pl.col("media_id").str.ends_with("-0")
        unknown = pl.when(pl.col("species") == "Genus0 sp1").then(None).otherwise("class").alias("class")
        return media.filter(~few | (pl.col("split") != "test_unseen")).with_columns(unknown)

    dataset = make_dataset(tmp_path / "dataset", edit=rare)
    usual = make_bench(dataset, tmp_path / "usual", seed=1)["scenarios"]
    even = make_bench(dataset, tmp_path / "bench", seed=1, rules=EVEN)["scenarios"]
    for scenario in scenarios("unseen"):
        rows = rows_of(tmp_path / "bench", "unseen", scenario.file)
        counts = Counter(row["taxon_class"] for row in rows)
        assert counts.keys() == {"Aves", "Mammalia"}
        assert len(set(counts.values())) == 1
        before = [row["query_payload_id"] for row in rows_of(tmp_path / "usual", "unseen", scenario.file)]
        after = [row["query_payload_id"] for row in rows]
        assert after == [one for one in before if one in set(after)]
    assert usual["unseen/species/a2i"]["n_queries"] == 6 * 4 + 6
    assert even["unseen/species/a2i"]["n_queries"] == 2 * 6


@pytest.mark.parametrize(
    ("rules", "edit", "message"),
    [
        (OTHER, pl.col("species").is_in([f"Genus{g} sp{3 * g}" for g in range(8)]),
         "no genus has audio of one species and text of another, .* choose --protocol any"),
        (EVEN, None, "no query has a class, so nothing can be balanced"),
    ],
)  # fmt: skip
def test_rules_that_leave_nothing_to_ask_are_refused(make_dataset, tmp_path, rules, edit, message):
    def harm(media):
        return media.with_columns(pl.lit(None, pl.String).alias("class")) if edit is None else media.filter(edit)

    dataset = make_dataset(tmp_path / "dataset", edit=harm)
    with pytest.raises(BenchError, match=rf"dataset: .*{message}"):
        make_bench(dataset, tmp_path / "bench", seed=1, rules=rules)
    assert not (tmp_path / "bench").exists()


def test_the_manifest_records_unusual_rules_and_the_usual_ones_leave_it_as_it_was(dataset, tmp_path):
    usual = make_bench(dataset, tmp_path / "usual", seed=1)
    assert usual["own_species_counts"]
    assert not {"protocol", "distractors", "balance"} & usual.keys()
    assert open_bench(tmp_path / "usual").facts == {
        "rules": {"protocol": "any", "distractors": "uniform", "balance": "none"}
    }
    other = make_bench(dataset, tmp_path / "other", seed=1, rules=ALL)
    assert not other["own_species_counts"]
    bench = open_bench(tmp_path / "other")
    assert bench.facts == {"rules": {"protocol": "other-species", "distractors": "hard", "balance": "class"}}
    assert bench.sha256 != open_bench(tmp_path / "usual").sha256


def test_the_flags_of_the_command_are_the_rules(biovita, dataset, tmp_path):
    flags = ("--protocol", "other-species", "--distractors", "hard", "--balance", "class", "--candidates", 3)
    assert biovita("bench", "make", dataset, "--out", tmp_path / "typed", *flags).code == 0
    make_bench(dataset, tmp_path / "called", seed=1, n_candidates=3, rules=ALL)
    assert bytes_of(tmp_path / "typed") == bytes_of(tmp_path / "called")


def test_a_benchmark_of_other_rules_is_not_taken_for_the_one_asked_for(dataset, tmp_path, capsys):
    for rules in (Rules(), ALL):
        out = tmp_path / rules.distractors
        made = make_bench(dataset, out, seed=1, rules=rules)
        capsys.readouterr()
        assert make_bench(dataset, out, seed=1, rules=rules) == made
        assert "this benchmark is there already" in capsys.readouterr().err
        with pytest.raises(BenchError, match="already there and not empty"):
            make_bench(dataset, out, seed=1, rules=HARD)


def test_small_pools_are_all_taxa_and_are_stated(dataset, tmp_path, capsys):
    manifest = make_bench(dataset, tmp_path / "bench", seed=1)
    assert manifest["n_candidates"] == 100
    assert manifest["scenarios"]["unseen/species/a2i"]["n_candidates"] == 12
    assert manifest["scenarios"]["unseen/family/a2i"]["n_candidates"] == 2
    assert "36 of 36 scenarios have pools of fewer than 100 taxa (down to 2)" in capsys.readouterr().err


def test_media_are_found_from_the_benchmark(dataset, tmp_path):
    make_bench(dataset, tmp_path / "deep" / "bench", seed=1)
    bench = open_bench(tmp_path / "deep" / "bench")
    assert bench.files("audio").keys() == {f"world:audio-{s}-{i}" for s in range(24) for i in range(s >= 12, 4)}
    assert bench.files("image")["world:image-3-1"].resolve() == (dataset / "media/image/3-1").resolve()


def test_a_taxon_without_a_name_at_a_level_stands_in_no_pool_there(make_dataset, tmp_path):
    def nameless(media):
        lost = pl.when(pl.col("species") == "Genus0 sp0").then(pl.lit(None)).otherwise("family")
        return media.with_columns(lost.alias("family"))

    dataset = make_dataset(tmp_path / "dataset", edit=nameless)
    manifest = make_bench(dataset, tmp_path / "bench", seed=1)
    assert manifest["scenarios"]["unseen/family/a2i"]["n_queries"] == 4 * 11
    assert manifest["scenarios"]["unseen/species/a2i"]["n_queries"] == 4 * 12
    open_bench(tmp_path / "bench")


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (~((pl.col("split") == "test_seen") & (pl.col("modality") == "image")), "split test_seen has no image files"),
        (pl.col("split") != "test_unseen", "split test_unseen has no audio files"),
        (
            (pl.col("split") != "test_unseen") | ((pl.col("family") == "Family0") == (pl.col("modality") == "audio")),
            "split test_unseen: no species has both audio and image, so unseen/species/a2i would be empty",
        ),
    ],
)
def test_a_scenario_that_would_be_empty_is_refused(make_dataset, tmp_path, keep, message):
    dataset = make_dataset(tmp_path / "dataset", edit=lambda media: media.filter(keep))
    with pytest.raises(BenchError, match=rf"dataset: {message}"):
        make_bench(dataset, tmp_path / "bench", seed=1)
    assert not (tmp_path / "bench").exists()


def test_a_folder_with_files_is_left_alone(dataset, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(BenchError, match="mine: already there and not empty"):
        make_bench(dataset, tmp_path / "mine", seed=1)
    (tmp_path / "empty").mkdir()
    make_bench(dataset, tmp_path / "empty", seed=1)
    assert (tmp_path / "empty" / "manifest.json").is_file()


def test_wrong_input_is_refused(dataset, tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        make_bench(tmp_path / "nowhere", tmp_path / "bench", seed=1)
    with pytest.raises(BenchError, match="--candidates 1: a pool needs at least 2"):
        make_bench(dataset, tmp_path / "bench", seed=1, n_candidates=1)


def test_a_changed_benchmark_is_refused(dataset, tmp_path):
    make_bench(dataset, tmp_path / "bench", seed=1)
    path = tmp_path / "bench" / "seen" / "genus" / "test_text_to_image.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(DatasetError, match=r"test_text_to_image.csv: changed since manifest.json was written"):
        open_bench(tmp_path / "bench")


def test_slugs_are_plain_and_unique():
    assert slugs(["Corvus corax", "corvus-corax", "Ñandú!", "!"]) == ["corvus_corax", "corvus_corax-2", "and", "taxon"]
