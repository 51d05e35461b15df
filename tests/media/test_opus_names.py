"""A sound is the same under every name that its format goes by."""

import shutil
from pathlib import Path

import numpy as np
import soundfile

from biovita.media.audio import audio_info, read_audio


def test_opus_is_read_the_same_as_opus_oga_and_ogg(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    wave = (0.1 * rng.standard_normal((3 * 48_000, 1))).astype(np.float32)
    with soundfile.SoundFile(tmp_path / "a.ogg", "w", 48_000, 1, "OPUS") as file:
        for block in np.array_split(wave, 40):
            file.write(block)
    for name in ("a.oga", "a.opus"):
        shutil.copyfile(tmp_path / "a.ogg", tmp_path / name)
        assert audio_info(tmp_path / name) == audio_info(tmp_path / "a.ogg")
        for start_s, duration_s in ((0.0, None), (1.3, 1.0)):
            one, other = (read_audio(tmp_path / n, start_s=start_s, duration_s=duration_s) for n in (name, "a.ogg"))
            assert np.array_equal(one, other)
