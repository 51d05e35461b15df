"""A text tower gets the words that it was trained with: the folder's, else CLIP's; never a guess."""

import gzip
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoConfig, AutoModel, AutoProcessor

from biovita.errors import ModelError
from biovita.models import processor
from biovita.models.processor import BioVitaProcessor, find_tokenizer, make_processor, read_merges
from biovita.models.vita import BioVitaConfig, BioVitaModel


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of merges as long as CLIP's, in the file of open_clip's package: every pair of letters, in order."""
    package = tmp_path_factory.mktemp("site") / "open_clip"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('this package must not be imported')\n")
    letters = sorted(ByteLevel.alphabet())
    pairs = [f"{a} {b}" for a in letters for b in letters]
    text = "\n".join(['"a title"', *pairs])
    with gzip.open(package / "bpe_simple_vocab_16e6.txt.gz", "wt", encoding="utf-8") as file:
        file.write(text)
    return package


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub's cache that is empty."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def test_clips_vocabulary_comes_from_an_installed_open_clip_without_importing_it(
    vocabulary: Path, no_hub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(vocabulary.parent))
    tokenizer = find_tokenizer(tmp_path, n_words=49_408, n_tokens=77)
    assert "open_clip" not in sys.modules
    assert len(tokenizer) == 49_408
    assert tokenizer("")["input_ids"] == [49_406, 49_407]  # as in CLIP
    words = tokenizer.get_vocab()
    assert (words["!"], words["!</w>"], words['!"']) == (0, 256, 513)  # letters, ends of words, merges in their order
    assert tokenizer.pad_token_id == 49_407
    long = tokenizer("owl " * 200, truncation=True)["input_ids"]
    assert (len(long), long[-1]) == (77, 49_407)


def test_without_clips_vocabulary_the_error_says_what_to_do(
    no_hub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"neither in the hub's cache nor in an installed open_clip; put tokenizer"):
        find_tokenizer(tmp_path, n_words=49_408, n_tokens=77)


def test_clips_vocabulary_comes_from_the_hubs_cache_first(
    vocabulary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(processor, "find_spec", lambda _: None)
    home = tmp_path / "hub" / "models--openai--clip-vit-large-patch14"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    cached = read_merges(vocabulary / "bpe_simple_vocab_16e6.txt.gz", n_words=49_408)
    cached.save_pretrained(home / "snapshots" / ("0" * 40))
    found = find_tokenizer(tmp_path, n_words=49_408, n_tokens=77)
    assert found.get_vocab() == cached.get_vocab()


def test_the_folders_own_tokenizer_comes_before_any_other(encoder: Any, vocabulary: Path, tmp_path: Path) -> None:
    own = encoder.processor.tokenizer
    own.save_pretrained(tmp_path)
    found = find_tokenizer(tmp_path, n_words=len(own), n_tokens=77)
    texts = ["Turdus merula", "OWL  owl", "d'Orbigny's 123 näïve"]
    assert found(texts)["input_ids"] == own(texts)["input_ids"]


def test_a_tokenizer_that_is_not_the_towers_is_refused(encoder: Any, tmp_path: Path) -> None:
    own = encoder.processor.tokenizer
    own.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="the text tower has 49,408 and ends with 49407"):
        find_tokenizer(tmp_path, n_words=49_408, n_tokens=77)


@pytest.mark.parametrize(("n_words", "named"), [(32_000, None), (49_408, "timm/ViT-B-16-SigLIP")])
def test_another_vocabulary_is_never_guessed(tmp_path: Path, n_words: int, named: str | None) -> None:
    with pytest.raises(ModelError, match=r"has no tokenizer\.json, and its (32,000 words are not|tokenizer is timm)"):
        find_tokenizer(tmp_path, n_words=n_words, n_tokens=64, named=named)


def test_texts_are_cut_where_the_tokenizer_says(encoder: Any, tmp_path: Path) -> None:
    encoder.processor.tokenizer.save_pretrained(tmp_path)
    made = make_processor(
        find_tokenizer(tmp_path, n_words=len(encoder.processor.tokenizer), n_tokens=16),
        image_size_px=32,
        audio_padding="pad",
    )
    assert made.tokens(["a b c d e f g h i j k l m n o p q r s t u v w x y z"])["input_ids"].shape == (1, 16)


def test_transformers_own_doors_open_a_folder_of_ours(model_folder: Path) -> None:
    found = AutoProcessor.from_pretrained(model_folder)
    assert type(found) is BioVitaProcessor
    assert found.fingerprint() == BioVitaProcessor.from_pretrained(model_folder).fingerprint()
    assert type(AutoConfig.from_pretrained(model_folder)) is BioVitaConfig
    assert type(AutoModel.from_pretrained(model_folder)) is BioVitaModel
