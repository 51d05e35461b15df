"""The 34 ecological labels in nine groups; a label is true, false, or null where nobody knows."""

from typing import Final

TRAIT_GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "diet": (
        "eats_invertebrates",
        "eats_vertebrates",
        "eats_fish",
        "eats_carrion",
        "eats_fruit",
        "eats_nectar",
        "eats_seeds",
        "eats_plants",
    ),
    "trophic_level": ("herbivore", "omnivore", "carnivore"),
    "activity_pattern": ("diurnal", "nocturnal", "crepuscular"),
    "locomotion_posture": ("flies", "climbs", "walks", "swims"),
    "lifestyle": ("aerial", "terrestrial", "perching", "aquatic"),
    "habitat": (
        "forest",
        "shrub_or_grassland",
        "wetland",
        "coast_or_sea",
        "desert_or_rock",
        "human_modified",
    ),
    "climatic_distribution": ("tropical", "temperate", "polar"),
    "social_behaviour": ("lives_in_groups",),
    "migration": ("resident", "migratory"),
}
TRAITS: Final[tuple[str, ...]] = tuple(label for labels in TRAIT_GROUPS.values() for label in labels)
