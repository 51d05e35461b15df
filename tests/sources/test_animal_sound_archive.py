"""The Animal Sound Archive is one dataset of GBIF, with ids of its own."""

import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from archives import gbif_files, write_zip

from biovita.errors import DatasetError
from biovita.sources import animal_sound_archive, gbif

OWL = {
    "gbifID": "1",
    "datasetKey": animal_sound_archive.DATASET,
    "basisOfRecord": "MACHINE_OBSERVATION",
    "catalogNumber": "TSA:Strix_aluco_V_3_1",
    "occurrenceID": "",
    "license": "CC_BY_4_0",
    "scientificName": "Strix aluco Linnaeus, 1758",
}
HOOT = {
    "gbifID": "1",
    "type": "Sound",
    "format": "audio/mpeg",
    "identifier": "http://www.tierstimmenarchiv.de/recordings/Strix_aluco_V_3_1_short.mp3",
    "license": "http://creativecommons.org/licenses/by-nc-sa/4.0/",
}


def test_recordings_have_the_ids_of_the_archive_and_their_own_licence(tmp_path: Path) -> None:
    occurrences = [
        OWL,
        OWL | {"gbifID": "2", "datasetKey": "b1047888-ae52-4179-9dd5-5448ea342a24"},
        OWL | {"gbifID": "3", "catalogNumber": "", "occurrenceID": "TSA:3"},
        OWL | {"gbifID": "4", "catalogNumber": " "},
    ]
    path = write_zip(tmp_path / "a.zip", gbif_files(occurrences, [HOOT | {"gbifID": str(i)} for i in range(1, 5)]))
    reading = animal_sound_archive.read(path)
    assert sorted(reading.records["media_id"]) == ["asa:TSA:3", "asa:TSA:Strix_aluco_V_3_1", "asa:gbif:4"]
    assert set(reading.records["source"]) == {"asa"}
    assert set(reading.records["licence"]) == {"CC-BY-NC-SA-4.0"}
    assert reading.counts["occurrences of other datasets"] == 1
    assert reading.counts["recordings without a number of the archive"] == 1
    everything = gbif.read(path).records
    assert set(reading.records["individual"]) == set(everything["individual"]) - {"gbif:2"}


def test_two_media_of_one_number_are_told_apart(tmp_path: Path) -> None:
    media = [HOOT, HOOT | {"identifier": "https://example.org/long.wav", "format": "audio/x-wav"}]
    first = animal_sound_archive.read(write_zip(tmp_path / "a.zip", gbif_files([OWL], media))).records
    second = animal_sound_archive.read(write_zip(tmp_path / "b.zip", gbif_files([OWL], media[::-1]))).records
    assert first.sort("media_id").equals(second.sort("media_id"))
    assert first["media_id"].n_unique() == 2
    assert first["media_id"].str.starts_with("asa:TSA:Strix_aluco_V_3_1:").all()


def test_a_download_without_the_archive_is_refused(tmp_path: Path) -> None:
    other = OWL | {"datasetKey": "b1047888-ae52-4179-9dd5-5448ea342a24"}
    with pytest.raises(DatasetError, match="no media of the Animal Sound Archive"):
        animal_sound_archive.read(write_zip(tmp_path / "a.zip", gbif_files([other], [HOOT])))
    names = [name for name in OWL if name != "datasetKey"]
    with pytest.raises(DatasetError, match="datasetKey"):
        animal_sound_archive.read(write_zip(tmp_path / "b.zip", gbif_files([OWL], [HOOT], names=names)))


@pytest.mark.parametrize(("query", "keys"), [("", set()), ("taxonKey=212", {"taxonKey"})])
def test_sounds_of_the_dataset_are_asked_for(tmp_path: Path, query: str, keys: set[str]) -> None:
    class FakeDoor:
        asked: dict[str, list[str]] = {}

        def get(self, url: str, *, params: Mapping[str, str] | None = None) -> bytes:
            self.asked |= parse_qs(urlsplit(url).query)
            return json.dumps({"endOfRecords": True, "count": 0, "results": []}).encode()

    door = FakeDoor()
    assert len(animal_sound_archive.fetch(door, query, tmp_path)) == 1
    assert door.asked["datasetKey"] == [animal_sound_archive.DATASET]
    assert door.asked["mediaType"] == ["Sound"]
    assert set(door.asked) == {"datasetKey", "mediaType", "limit", "offset"} | keys
