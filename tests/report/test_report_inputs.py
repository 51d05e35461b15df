"""Wrong inputs are named; lineages agree with a plain loop."""

import json
import shutil

import numpy as np
import pytest
from fabricated import Run

from biovita.errors import BenchError, DatasetError, EmbeddingError, ModelError
from biovita.files import write_json
from biovita.report.inputs import RELATIONS, Lineages, count_parameters, read_inputs, read_log, read_results


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "no such results file"),
        ("{", "not valid JSON"),
        ("[]", "not a results file"),
        ('{"schema": 2, "scenarios": [{}]}', "not a results file"),
        ('{"schema": 1, "scenarios": [{"direction": "a2t"}]}', "lacks level"),
    ],
)
def test_a_wrong_results_file_is_named(tmp_path, text: str | None, words: str) -> None:
    from biovita.errors import BiovitaError

    path = tmp_path / "results.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BiovitaError, match=words) as caught:
        read_results(path)
    assert str(path) in str(caught.value)


def test_parts_of_another_run_are_refused(run: Run, tmp_path) -> None:
    def altered(name: str, file: str):
        shutil.copytree(run.folder / name, tmp_path / name, dirs_exist_ok=True)
        with (tmp_path / name / file).open("ab") as f:
            f.write(b" ")
        return tmp_path / name

    with pytest.raises(ModelError, match="not the model"):
        read_inputs(run.results, model=altered("model", "model.safetensors"))
    shutil.copytree(run.folder / "embeddings", tmp_path / "embeddings")
    shutil.copy(run.folder / "embeddings/audio.parquet", tmp_path / "embeddings/image.parquet")
    with pytest.raises(EmbeddingError, match="not the vectors"):
        read_inputs(run.results, embeddings=tmp_path / "embeddings")
    with pytest.raises(BenchError, match="not the benchmark"):
        read_inputs(run.results, bench=altered("bench", "manifest.json"))
    with pytest.raises(DatasetError, match="was not made from this dataset"):
        read_inputs(run.results, bench=run.folder / "bench", dataset=altered("dataset", "manifest.json"))


def test_missing_folders_are_named(run: Run, tmp_path) -> None:
    nowhere = tmp_path / "nowhere"
    for kind, error in (
        ("model", ModelError),
        ("dataset", DatasetError),
        ("bench", BenchError),
        ("embeddings", EmbeddingError),
    ):
        with pytest.raises(error, match="nowhere"):
            read_inputs(run.results, **{kind: nowhere})


def test_a_broken_line_of_the_log_is_numbered(tmp_path) -> None:
    (tmp_path / "log").write_text('{"step": 1}\n{"step": 2')
    with pytest.raises(ModelError, match="line 2"):
        read_log(tmp_path / "log")


def test_the_dataset_that_the_benchmark_names_is_found(run: Run) -> None:
    found = read_inputs(run.results, bench=run.folder / "bench").dataset
    assert found is not None
    assert found.folder.resolve() == (run.folder / "dataset").resolve()


def test_results_alone_say_that_their_animals_are_made_up(run: Run, tmp_path) -> None:
    results = json.loads(run.results.read_text())
    for is_made_up in (True, False):
        write_json(tmp_path / "alone.json", results | {"run": results["run"] | {"made_up": is_made_up}})
        assert read_inputs(tmp_path / "alone.json").made_up is is_made_up


def test_parameters_are_counted_from_the_header(run: Run, tmp_path) -> None:
    assert count_parameters(run.folder / "model" / "model.safetensors") == {"audio_model": 6}
    (tmp_path / "x").write_text(json.dumps({}))
    with pytest.raises(ModelError, match="safetensors"):
        count_parameters(tmp_path / "x")


def test_relations_agree_with_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    names = [f"s{i}" for i in range(30)]
    lineage = {name: {rank: str(rng.choice(["", "x", "y", "z"])) for rank in RELATIONS} for name in names}
    lineages = Lineages(lineage)
    asked = [*names, "unknown"]
    pairs = [(a, b) for a in asked for b in asked if a != b or a == "unknown"]
    places = lineages.places([a for a, _ in pairs]), lineages.places([b for _, b in pairs])
    for (a, b), code in zip(pairs, lineages.relation(*places), strict=True):
        expected = len(RELATIONS)
        for i, rank in reversed(list(enumerate(RELATIONS))):
            if a in lineage and b in lineage and lineage[a][rank] and lineage[a][rank] == lineage[b][rank]:
                expected = i
        assert code == expected


def test_results_without_some_scenarios_still_read(run: Run, tmp_path) -> None:
    content = run.content()
    content["scenarios"] = content["scenarios"][:2]
    write_json(tmp_path / "results.json", content)
    assert len(read_results(tmp_path / "results.json")["scenarios"]) == 2
