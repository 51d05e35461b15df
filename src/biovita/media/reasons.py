"""Why a file or a record is refused: the fixed vocabulary of quarantine tables, `data check` and reports."""

from typing import Final

MEDIA_REASONS: Final[tuple[str, ...]] = (
    "empty_file",
    "html_document",
    "json_document",
    "text_document",
    "not_media",
    "wrong_modality",
    "unsupported_format",
    "unsupported_codec",
    "external_reference",
    "truncated",
    "corrupt",
    "bad_header",
    "no_audio_stream",
    "no_samples",
    "too_short",
    "too_long",
    "too_many_pixels",
    "too_small",
    "bad_aspect",
    "bad_sample_rate",
    "bad_channels",
    "non_finite",
    "out_of_range",
    "silent",
    "blank",
    "metadata_bomb",
    "not_regular_file",
    "unreadable",
    "symlink",
    "unsafe_name",
    "unsafe_archive",
    "archive_bomb",
    "unsafe_pickle",
    "bad_checkpoint",
    "bad_table",
)
RECORD_REASONS: Final[tuple[str, ...]] = ("duplicate", "licence_refused", "name_unresolved", "download_failed")
REASONS: Final[tuple[str, ...]] = MEDIA_REASONS + RECORD_REASONS
