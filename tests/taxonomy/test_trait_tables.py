"""Published trait tables to the 34 labels: every rule at its edges, names, duplicates, disagreements, hostile rows.

The small tables are made up, in the exact layouts of the published files. A value says nothing about its animal.
"""

import json
import runpy
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from biovita.errors import DatasetError
from biovita.taxonomy.checklist import Checklist
from biovita.taxonomy.rank import RANKS
from biovita.taxonomy.trait_tables import (
    KINDS,
    TRAIT_SCHEMA,
    TraitTable,
    as_rule_column,
    epithet_stem,
    read_traits,
    trait_sources,
)
from biovita.taxonomy.traits import TRAITS

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
needs_tables = pytest.mark.skipif(
    not (SHARED / "traits").is_dir(), reason="shared/data/traits is not beside this checkout"
)

LAYOUTS = {
    "avonet": (
        "AVONET1_BirdLife.csv",
        "Sequence,Species1,Family1,Order1,Avibase.ID1,Total.individuals,Female,Male,Unknown,Complete.measures,"
        "Beak.Length_Culmen,Beak.Length_Nares,Beak.Width,Beak.Depth,Tarsus.Length,Wing.Length,Kipps.Distance,Secondary1,"
        "Hand-Wing.Index,Tail.Length,Mass,Mass.Source,Mass.Refs.Other,Inference,Traits.inferred,Reference.species,Habitat,"
        "Habitat.Density,Migration,Trophic.Level,Trophic.Niche,Primary.Lifestyle,Min.Latitude,Max.Latitude,"
        "Centroid.Latitude,Centroid.Longitude,Range.Size",
    ),
    "eltontraits_birds": (
        "EltonTraitsBirds.txt",
        "SpecID,PassNonPass,IOCOrder,BLFamilyLatin,BLFamilyEnglish,BLFamSequID,Taxo,Scientific,English,Diet-Inv,Diet-Vend,"
        "Diet-Vect,Diet-Vfish,Diet-Vunk,Diet-Scav,Diet-Fruit,Diet-Nect,Diet-Seed,Diet-PlantO,Diet-5Cat,Diet-Source,"
        "Diet-Certainty,Diet-EnteredBy,ForStrat-watbelowsurf,ForStrat-wataroundsurf,ForStrat-ground,ForStrat-understory,"
        "ForStrat-midhigh,ForStrat-canopy,ForStrat-aerial,PelagicSpecialist,ForStrat-Source,ForStrat-SpecLevel,"
        "ForStrat-EnteredBy,Nocturnal,BodyMass-Value,BodyMass-Source,BodyMass-SpecLevel,BodyMass-Comment,Record-Comment",
    ),
    "eltontraits_mammals": (
        "EltonTraitsMammals.txt",
        "MSW3_ID,Scientific,MSWFamilyLatin,Diet-Inv,Diet-Vend,Diet-Vect,Diet-Vfish,Diet-Vunk,Diet-Scav,Diet-Fruit,Diet-Nect,"
        "Diet-Seed,Diet-PlantO,Diet-Source,Diet-Certainty,ForStrat-Value,ForStrat-Certainty,ForStrat-Comment,"
        "Activity-Nocturnal,Activity-Crepuscular,Activity-Diurnal,Activity-Source,Activity-Certainty,BodyMass-Value,"
        "BodyMass-Source,BodyMass-SpecLevel",
    ),
    "combine": (
        "COMBINE_trait_data_imputed.txt",
        "order,family,genus,species,iucn2020_binomial,phylacine_binomial,adult_mass_g,social_group_n,dphy_invertebrate,"
        "dphy_vertebrate,dphy_plant,det_inv,det_vend,det_vect,det_vfish,det_vunk,det_scav,det_fruit,det_nect,det_seed,"
        "det_plantother,det_diet_breadth_n,trophic_level,foraging_stratum,activity_cycle,freshwater,marine,"
        "terrestrial_non-volant,terrestrial_volant,biogeographical_realm,habitat_breadth_n",
    ),
    "amphibio": (
        "AmphiBIO_v1.csv",
        "id,Order,Family,Genus,Species,Fos,Ter,Aqu,Arb,Leaves,Flowers,Seeds,Fruits,Arthro,Vert,Diu,Noc,Crepu,Wet_warm,"
        "Wet_cold,Dry_warm,Dry_cold,Body_mass_g,OBS",
    ),
    "anage": (
        "anage_data.txt",
        "HAGRID,Kingdom,Phylum,Class,Order,Family,Genus,Species,Common name,Maximum longevity (yrs),Temperature (K)",
    ),
}

WATER_AND_TREES = (
    "ForStrat_watbelowsurf={} ForStrat_wataroundsurf=0 ForStrat_understory={} ForStrat_midhigh=0 ForStrat_canopy=0"
)
MEAT = "Diet_Inv={} Diet_Vend=0 Diet_Vect=0 Diet_Vfish=0 Diet_Vunk=0 Diet_Scav=0"
GREENS = "Diet_Fruit={} Diet_Nect=0 Diet_Seed=0 Diet_PlantO=0"
VERTEBRATES = "Diet_Vend={} Diet_Vect={} Diet_Vfish={} Diet_Vunk={}"


def niche(true: str) -> tuple[list[str], list[str], list[str]]:
    """AVONET's niche: the food that makes up most of the diet, and nothing about the others."""
    return [f"Trophic_Niche={true}"], [], ["Trophic_Niche=Omnivore", "Trophic_Niche=Aquatic predator"]


def percent(column: str) -> tuple[list[str], list[str], list[str]]:
    return [f"{column}=10", f"{column}=100"], [f"{column}=0"], [f"{column}=9", f"{column}=101", f"{column}=-9"]


def flag(column: str) -> tuple[list[str], list[str], list[str]]:
    return [f"{column}=1"], [f"{column}=0"], [f"{column}=2", f"{column}=-9"]


def lifestyle(true: str) -> tuple[list[str], list[str], list[str]]:
    others = {"Aerial", "Terrestrial", "Insessorial", "Aquatic"} - {true}
    said = [f"Primary_Lifestyle={word}" for word in sorted(others)]
    return [f"Primary_Lifestyle={true}"], said, ["Primary_Lifestyle=Generalist"]


def habitat(true: list[str], false: list[str]) -> tuple[list[str], list[str], list[str]]:
    words = [
        "Forest",
        "Woodland",
        "Shrubland",
        "Grassland",
        "Wetland",
        "Riverine",
        "Desert",
        "Rock",
        "Coastal",
        "Marine",
    ]
    silent = [f"Habitat={word}" for word in (*words, "Human Modified") if word not in {*true, *false}]
    return [f"Habitat={word}" for word in true], [f"Habitat={word}" for word in false], silent


def lat(low: float, high: float, more: str = "") -> str:
    return f"Min_Latitude={low} Max_Latitude={high} {more}".strip()


ELTON_DIET = {
    "eats_invertebrates": percent("Diet_Inv"),
    "eats_vertebrates": (
        [VERTEBRATES.format(10, 0, 0, 0), VERTEBRATES.format(0, 0, 10, 0), VERTEBRATES.format(0, 0, 0, 10)],
        [VERTEBRATES.format(0, 0, 0, 0)],
        [VERTEBRATES.format(5, 0, 0, 0), "Diet_Vend=0 Diet_Vect=0 Diet_Vfish=0"],
    ),
    "eats_fish": (["Diet_Vfish=10"], ["Diet_Vfish=0 Diet_Vunk=0"], ["Diet_Vfish=0 Diet_Vunk=10", "Diet_Vfish=0"]),
    "eats_carrion": percent("Diet_Scav"),
    "eats_fruit": percent("Diet_Fruit"),
    "eats_nectar": percent("Diet_Nect"),
    "eats_seeds": percent("Diet_Seed"),
    "eats_plants": percent("Diet_PlantO"),
}
BOTH = f"{MEAT} {GREENS}"
FLIGHTLESS = ("Struthionidae", "Rheidae", "Casuariidae", "Dromaiidae", "Apterygidae", "Spheniscidae", "Rhynochetidae")
CANNOT_WALK = ("Apodidae", "Hemiprocnidae", "Trochilidae")
SEA_ONLY = "marine=1 terrestrial_non_volant=0 terrestrial_volant=0 freshwater=0"
SEAL = "marine=1 terrestrial_non_volant=1 terrestrial_volant=0 freshwater=0"

# source -> label -> cells that make it true, false, and nothing
CASES: dict[str, dict[str, tuple[list[str], list[str], list[str]]]] = {
    "avonet": {
        "eats_invertebrates": niche("Invertivore"),
        "eats_vertebrates": niche("Vertivore"),
        "eats_carrion": (["Trophic_Niche=Scavenger", "Trophic_Level=Scavenger"], [], ["Trophic_Niche=Vertivore"]),
        "eats_fruit": niche("Frugivore"),
        "eats_nectar": niche("Nectarivore"),
        "eats_seeds": niche("Granivore"),
        "eats_plants": (
            ["Trophic_Niche=Herbivore terrestrial", "Trophic_Niche=Herbivore aquatic"], [], ["Trophic_Niche=Frugivore"],
        ),
        "herbivore": (
            ["Trophic_Level=Herbivore"], [f"Trophic_Level={x}" for x in ("Omnivore", "Carnivore", "Scavenger")],
            ["Trophic_Level=Detritivore"],
        ),
        "omnivore": (
            ["Trophic_Level=Omnivore"], [f"Trophic_Level={x}" for x in ("Herbivore", "Carnivore", "Scavenger")],
            ["Trophic_Level=Detritivore"],
        ),
        "carnivore": (
            ["Trophic_Level=Carnivore", "Trophic_Level=Scavenger"],
            ["Trophic_Level=Herbivore", "Trophic_Level=Omnivore"],
            ["Trophic_Level=Detritivore"],
        ),
        "flies": (
            ["Family1=Corvidae", "Family1=Anatidae Migration=3"], [f"Family1={x} Migration=3" for x in FLIGHTLESS],
            ["Family1=Anatidae Migration=2", "Family1=Rallidae"],
        ),
        "climbs": (
            [f"Family1={x} Primary_Lifestyle=Terrestrial" for x in ("Picidae", "Sittidae", "Certhiidae")]
            + ["Family1=Climacteridae"],
            ["Family1=Anatidae Primary_Lifestyle=Aquatic", "Family1=Anatidae Primary_Lifestyle=Terrestrial"],
            ["Family1=Paridae Primary_Lifestyle=Insessorial"],
        ),
        "walks": (
            ["Primary_Lifestyle=Terrestrial"], [f"Family1={x} Primary_Lifestyle=Aerial" for x in CANNOT_WALK],
            ["Family1=Paridae Primary_Lifestyle=Insessorial"],
        ),
        "swims": (
            ["Primary_Lifestyle=Aquatic", "Family1=Anatidae Primary_Lifestyle=Terrestrial Habitat=Grassland"],
            ["Family1=Paridae Primary_Lifestyle=Insessorial Habitat=Forest"],
            ["Family1=Alcedinidae Primary_Lifestyle=Insessorial Habitat=Riverine"],
        ),
        "aerial": lifestyle("Aerial"),
        "terrestrial": lifestyle("Terrestrial"),
        "perching": lifestyle("Insessorial"),
        "aquatic": lifestyle("Aquatic"),
        "forest": habitat(["Forest", "Woodland"], ["Desert", "Rock", "Grassland", "Coastal", "Marine"]),
        "shrub_or_grassland": (
            ["Habitat=Shrubland", "Habitat=Grassland"],
            ["Habitat=Coastal", "Habitat=Marine", "Habitat=Forest Habitat_Density=1"],
            ["Habitat=Forest Habitat_Density=2", "Habitat=Forest", "Habitat=Woodland Habitat_Density=1"],
        ),
        "wetland": (
            ["Habitat=Wetland", "Habitat=Riverine"],
            ["Habitat=Desert", "Habitat=Rock", "Habitat=Marine", "Habitat=Forest Habitat_Density=1"],
            ["Habitat=Forest Habitat_Density=2", "Habitat=Grassland Habitat_Density=1"],
        ),
        "coast_or_sea": habitat(["Coastal", "Marine"], ["Forest", "Woodland", "Desert"]),
        "desert_or_rock": habitat(["Desert", "Rock"], ["Forest", "Woodland", "Wetland", "Riverine", "Marine"]),
        "human_modified": (["Habitat=Human Modified"], ["Habitat=Marine"], ["Habitat=Forest", "Habitat=Grassland"]),
        "tropical": (
            [lat(-9, 5), lat(-9, -9), lat(13.44, 63.44), lat(-63.44, -13.44)],
            [lat(24, 30, "Migration=1"), lat(-40, -40, "Migration=1")],
            [lat(13.45, 63.45, "Migration=1"), lat(24, 30, "Migration=3"), lat(24, 30), "Min_Latitude=24 Migration=1"],
        ),
        "temperate": (
            [lat(30, 40), lat(-40, -30), lat(40, 40), lat(13.44, 25.95)],
            [lat(-10, 20, "Migration=1"), lat(67, 70, "Migration=1")],
            [lat(13.44, 25.93, "Migration=1"), lat(67, 70, "Migration=3"), lat(95, 100, "Migration=1")],
        ),
        "polar": (
            [lat(60, 80), lat(-80, -60), lat(70, 70), lat(-70, -67)],
            [lat(30, 66, "Habitat=Forest"), lat(-60, 0, "Habitat=Rock")],
            [lat(20, 70, "Habitat=Forest"), lat(30, 66, "Habitat=Marine"), lat(30, 66)],
        ),
        "resident": (["Migration=1", "Migration=2"], ["Migration=3"], ["Migration=4"]),
        "migratory": (["Migration=2", "Migration=3"], ["Migration=1"], ["Migration=0"]),
    },
    "eltontraits_birds": {
        **ELTON_DIET,
        "herbivore": ([BOTH.format(30, 70)], [BOTH.format(40, 60)], [GREENS.format(-9)]),
        "omnivore": (
            [BOTH.format(40, 60), BOTH.format(60, 40)], [BOTH.format(70, 30), BOTH.format(30, 70)], [MEAT.format(50)],
        ),
        "carnivore": ([BOTH.format(70, 30)], [BOTH.format(60, 40)], [MEAT.format(101)]),
        "diurnal": (["Nocturnal=0"], ["Nocturnal=1"], ["Nocturnal=2"]),
        "nocturnal": flag("Nocturnal"),
        "flies": (
            ["BLFamilyLatin=Corvidae", "BLFamilyLatin=Anatidae ForStrat_aerial=10"],
            [f"BLFamilyLatin={x}" for x in FLIGHTLESS],
            ["BLFamilyLatin=Anatidae ForStrat_aerial=0"],
        ),
        "walks": (
            ["BLFamilyLatin=Corvidae IOCOrder=Passeriformes ForStrat_ground=50"],
            [f"BLFamilyLatin={x} ForStrat_ground=50" for x in CANNOT_WALK],
            [
                "BLFamilyLatin=Corvidae IOCOrder=Passeriformes ForStrat_ground=40",
                "BLFamilyLatin=Strigidae IOCOrder=Strigiformes ForStrat_ground=80",
            ],
        ),
        "swims": (
            ["BLFamilyLatin=Sulidae ForStrat_watbelowsurf=50"], [WATER_AND_TREES.format(0, 80)],
            ["BLFamilyLatin=Alcedinidae ForStrat_watbelowsurf=50", "BLFamilyLatin=Sulidae ForStrat_watbelowsurf=40",
             WATER_AND_TREES.format(10, 80), WATER_AND_TREES.format(0, 70)],
        ),
        "aerial": (["ForStrat_aerial=50"], [], ["ForStrat_aerial=40", "ForStrat_aerial=0"]),
        "terrestrial": (
            ["IOCOrder=Passeriformes ForStrat_ground=80"], ["ForStrat_ground=0 ForStrat_wataroundsurf=0"],
            ["IOCOrder=Passeriformes ForStrat_ground=70", "IOCOrder=Falconiformes ForStrat_ground=80",
             "ForStrat_ground=0 ForStrat_wataroundsurf=10", "ForStrat_ground=10 ForStrat_wataroundsurf=0"],
        ),
        "perching": (
            ["BLFamilyLatin=Paridae " + WATER_AND_TREES.format(0, 80)], [WATER_AND_TREES.format(0, 0)],
            ["BLFamilyLatin=Paridae " + WATER_AND_TREES.format(0, 70),
             "BLFamilyLatin=Trochilidae " + WATER_AND_TREES.format(0, 80)],
        ),
        "aquatic": (
            [], [WATER_AND_TREES.format(0, 0)], [WATER_AND_TREES.format(100, 0), WATER_AND_TREES.format(10, 0)],
        ),
        "coast_or_sea": (["PelagicSpecialist=1"], [], ["PelagicSpecialist=0"]),
    },
    "eltontraits_mammals": {
        **ELTON_DIET,
        "herbivore": ([MEAT.format(0)], [MEAT.format(20)], [MEAT.format(10)]),
        "omnivore": (
            [BOTH.format(20, 80), BOTH.format(80, 20)], [BOTH.format(0, 100), BOTH.format(100, 0)],
            [BOTH.format(10, 90), BOTH.format(90, 10)],
        ),
        "carnivore": ([GREENS.format(0)], [GREENS.format(20)], [GREENS.format(10)]),
        "diurnal": flag("Activity_Diurnal"),
        "nocturnal": flag("Activity_Nocturnal"),
        "crepuscular": flag("Activity_Crepuscular"),
        "flies": (["MSWFamilyLatin=Molossidae"], ["MSWFamilyLatin=Felidae ForStrat_Value=A"], ["ForStrat_Value=A"]),
        "climbs": (
            ["MSWFamilyLatin=Felidae ForStrat_Value=Ar", "MSWFamilyLatin=Felidae ForStrat_Value=S"],
            ["ForStrat_Value=M"],
            ["MSWFamilyLatin=Ursidae ForStrat_Value=G", "MSWFamilyLatin=Molossidae ForStrat_Value=S"],
        ),
        "walks": (
            ["MSWFamilyLatin=Ursidae ForStrat_Value=G", "MSWFamilyLatin=Ursidae ForStrat_Value=S"],
            ["MSWFamilyLatin=Molossidae ForStrat_Value=A"],
            ["MSWFamilyLatin=Ursidae ForStrat_Value=Ar", "MSWFamilyLatin=Phocidae ForStrat_Value=M",
             "MSWFamilyLatin=Mystacinidae ForStrat_Value=G"],
        ),
        "swims": (
            ["MSWFamilyLatin=Phocidae ForStrat_Value=M", "ForStrat_Comment=Freshwater",
             "MSWFamilyLatin=Mustelidae ForStrat_Value=G ForStrat_Comment=aquatic"],
            ["MSWFamilyLatin=Molossidae ForStrat_Value=A", "MSWFamilyLatin=Felidae ForStrat_Value=Ar"],
            ["MSWFamilyLatin=Ursidae ForStrat_Value=G", "MSWFamilyLatin=Ursidae ForStrat_Value=S"],
        ),
        "aerial": (
            ["MSWFamilyLatin=Molossidae ForStrat_Value=A"], ["MSWFamilyLatin=Felidae ForStrat_Value=Ar"],
            ["MSWFamilyLatin=Molossidae ForStrat_Value=Ar"],
        ),
        "terrestrial": (
            ["MSWFamilyLatin=Ursidae ForStrat_Value=G", "MSWFamilyLatin=Ursidae ForStrat_Value=S"],
            ["ForStrat_Value=Ar", "ForStrat_Value=A", "ForStrat_Value=M"],
            ["MSWFamilyLatin=Mystacinidae ForStrat_Value=G"],
        ),
        "perching": (
            ["MSWFamilyLatin=Sciuridae ForStrat_Value=Ar"],
            ["MSWFamilyLatin=Ursidae ForStrat_Value=G", "MSWFamilyLatin=Phocidae ForStrat_Value=M"],
            ["MSWFamilyLatin=Ursidae ForStrat_Value=S", "MSWFamilyLatin=Molossidae ForStrat_Value=Ar"],
        ),
        "aquatic": (
            ["ForStrat_Value=M", "ForStrat_Comment=Aquatic"],
            ["MSWFamilyLatin=Molossidae ForStrat_Value=G", "ForStrat_Value=Ar", "ForStrat_Value=S"],
            ["MSWFamilyLatin=Ursidae ForStrat_Value=G"],
        ),
        "forest": (
            ["MSWFamilyLatin=Sciuridae ForStrat_Value=Ar"], [],
            ["MSWFamilyLatin=Molossidae ForStrat_Value=Ar", "MSWFamilyLatin=Sciuridae ForStrat_Value=G"],
        ),
        "coast_or_sea": (["ForStrat_Value=M"], [], ["ForStrat_Value=G"]),
    },
    "combine": {
        "eats_invertebrates": (
            ["det_inv=10", "dphy_invertebrate=10"], ["det_inv=0 dphy_invertebrate=10", "dphy_invertebrate=0"],
            ["dphy_invertebrate=9", "det_inv=5 dphy_invertebrate=0"],
        ),
        "eats_vertebrates": (
            ["det_vend=0 det_vect=0 det_vfish=10 det_vunk=0", "dphy_vertebrate=10"],
            ["det_vend=0 det_vect=0 det_vfish=0 det_vunk=0 dphy_vertebrate=10", "dphy_vertebrate=0"],
            ["dphy_vertebrate=3"],
        ),
        "eats_fish": (
            ["det_vfish=10"], ["det_vfish=0 det_vunk=0", "dphy_vertebrate=0"],
            ["det_vfish=0 det_vunk=10 dphy_vertebrate=10", "dphy_vertebrate=50"],
        ),
        "eats_carrion": (["det_scav=10"], ["det_scav=0"], ["det_scav=9", "dphy_vertebrate=0"]),
        "eats_fruit": (["det_fruit=10"], ["det_fruit=0", "dphy_plant=0"], ["dphy_plant=100"]),
        "eats_nectar": (["det_nect=10"], ["det_nect=0", "dphy_plant=0"], ["dphy_plant=100"]),
        "eats_seeds": (["det_seed=10"], ["det_seed=0", "dphy_plant=0"], ["dphy_plant=100"]),
        "eats_plants": (["det_plantother=10"], ["det_plantother=0", "dphy_plant=0"], ["dphy_plant=100"]),
        "herbivore": (["trophic_level=1"], ["trophic_level=2", "trophic_level=3"], ["trophic_level=4"]),
        "omnivore": (["trophic_level=2"], ["trophic_level=1", "trophic_level=3"], ["trophic_level=0"]),
        "carnivore": (["trophic_level=3"], ["trophic_level=1", "trophic_level=2"], ["trophic_level=-9"]),
        "diurnal": (["activity_cycle=3"], ["activity_cycle=1"], ["activity_cycle=2"]),
        "nocturnal": (["activity_cycle=1"], ["activity_cycle=3"], ["activity_cycle=2"]),
        "crepuscular": ([], ["activity_cycle=1", "activity_cycle=3"], ["activity_cycle=2"]),
        "flies": (["order=Chiroptera"], ["order=Rodentia"], ["foraging_stratum=A"]),
        "climbs": (
            ["order=Rodentia foraging_stratum=Ar", "order=Rodentia foraging_stratum=S"],
            ["foraging_stratum=M", SEA_ONLY, "order=Lagomorpha foraging_stratum=G"],
            ["order=Carnivora foraging_stratum=G", "order=Chiroptera foraging_stratum=S"],
        ),
        "walks": (
            ["terrestrial_non_volant=1 foraging_stratum=G", "terrestrial_non_volant=1 foraging_stratum=S"],
            ["terrestrial_non_volant=0"],
            ["terrestrial_non_volant=1 foraging_stratum=Ar", SEAL + " foraging_stratum=M"],
        ),
        "swims": (["freshwater=1", "marine=1 freshwater=0"], ["freshwater=0 marine=0"], ["freshwater=0", "marine=0"]),
        "aerial": (
            ["order=Chiroptera foraging_stratum=A"], ["order=Rodentia"], ["order=Chiroptera foraging_stratum=Ar"],
        ),
        "terrestrial": (
            ["order=Rodentia foraging_stratum=G", "order=Rodentia foraging_stratum=S"],
            ["foraging_stratum=Ar", "foraging_stratum=A", "foraging_stratum=M"],
            ["order=Chiroptera foraging_stratum=G"],
        ),
        "perching": (
            ["order=Rodentia foraging_stratum=Ar"],
            ["order=Rodentia foraging_stratum=G", "order=Carnivora foraging_stratum=M"],
            ["order=Rodentia foraging_stratum=S", "order=Chiroptera foraging_stratum=G"],
        ),
        "aquatic": (["freshwater=1", "marine=1"], ["freshwater=0 marine=0"], ["freshwater=0"]),
        "forest": (["order=Rodentia foraging_stratum=Ar"], [SEA_ONLY], [SEAL, "order=Chiroptera foraging_stratum=Ar"]),
        "shrub_or_grassland": ([], [SEA_ONLY], [SEAL]),
        "wetland": (["freshwater=1"], [SEA_ONLY], ["freshwater=0", SEAL]),
        "coast_or_sea": (["marine=1"], ["marine=0"], ["marine=2"]),
        "desert_or_rock": ([], [SEA_ONLY], [SEAL]),
        "human_modified": ([], [SEA_ONLY], [SEAL]),
        "lives_in_groups": (
            ["social_group_n=3", "social_group_n=110"], ["social_group_n=1", "social_group_n=1.9"],
            ["social_group_n=2", "social_group_n=2.9", "social_group_n=-9"],
        ),
    },
    "amphibio": {
        "eats_invertebrates": (["Arthro=1"], [], ["Arthro=0", "Vert=1"]),
        "eats_vertebrates": (["Vert=1"], [], ["Vert=0", "Arthro=1"]),
        "eats_fruit": (["Fruits=1"], [], ["Fruits=0", "Arthro=1"]),
        "eats_seeds": (["Seeds=1"], [], ["Seeds=0", "Arthro=1"]),
        "eats_plants": (["Leaves=1", "Flowers=1"], [], ["Fruits=1", "Arthro=1"]),
        "herbivore": ([], ["Arthro=1", "Vert=1 Leaves=1"], ["Leaves=1"]),
        "omnivore": ([], ["Arthro=1", "Vert=1"], ["Arthro=1 Leaves=1", "Leaves=1"]),
        "carnivore": (["Arthro=1", "Vert=1"], [], ["Arthro=1 Leaves=1", "Vert=1 Fruits=1", "Seeds=1"]),
        "diurnal": (["Diu=1"], [], ["Noc=1"]),
        "nocturnal": (["Noc=1"], [], ["Diu=1"]),
        "crepuscular": (["Crepu=1"], [], ["Noc=1 Diu=1"]),
        "flies": ([], ["Order=Anura Arb=1", "Order=Caudata", "Order=Gymnophiona"], ["Arb=1"]),
        "climbs": (["Arb=1 Order=Gymnophiona", "Arb=1"], ["Order=Gymnophiona"], ["Order=Anura Ter=1", "Order=Caudata"]),
        "walks": (["Order=Caudata Ter=1"], ["Order=Gymnophiona Ter=1"], ["Order=Anura Ter=1", "Order=Caudata Aqu=1"]),
        "swims": (["Aqu=1"], [], ["Ter=1"]),
        "aerial": ([], ["Order=Anura", "Order=Caudata", "Order=Gymnophiona"], ["Arb=1"]),
        "terrestrial": (["Ter=1"], [], ["Aqu=1", "Fos=1"]),
        "perching": (["Arb=1"], ["Order=Gymnophiona"], ["Order=Anura Ter=1"]),
        "aquatic": (["Aqu=1"], [], ["Ter=1"]),
        "wetland": (["Aqu=1"], [], ["Ter=1"]),
    },
    "anage": {},
}  # fmt: skip


def cells_of(text: str) -> dict[str, str]:
    """Read `Migration=1 Trophic_Niche=Aquatic predator`: a word without = belongs to the value before it."""
    cells: dict[str, str] = {}
    for word in text.split():
        key, equals, value = word.partition("=")
        if equals:
            cells[key] = value
        else:
            cells[list(cells)[-1]] += f" {word}"
    return cells


def table_text(source: str, rows: list[dict[str, str]]) -> str:
    """Write a table in the published layout; what a row leaves open is NA."""
    columns = LAYOUTS[source][1].split(",")
    separator = "," if LAYOUTS[source][0].endswith(".csv") else "\t"
    lines = [separator.join(row.get(as_rule_column(c), row.get(c, "NA")) for c in columns) for row in rows]
    mark = "\ufeff" if source == "avonet" else ""
    return mark + "\n".join([separator.join(columns), *lines]) + "\n"


def named(source: str, name: str, cells: str = "") -> dict[str, str]:
    genus, epithet = name.split(" ", 1)
    names = {
        "avonet": {"Species1": name},
        "amphibio": {"Genus": genus, "Species": name},
        "combine": {"genus": genus, "species": epithet},
        "anage": {"Genus": genus, "Species": epithet},
    }
    return {**names.get(source, {"Scientific": name}), **cells_of(cells)}


def write(folder: Path, **tables: list[dict[str, str]]) -> Path:
    for source, rows in tables.items():
        (folder / LAYOUTS[source][0]).write_text(table_text(source, rows), encoding="utf-8")
    return folder


def checklist_of(folder: Path, *species: tuple[str, str, str, str]) -> Checklist:
    """A checklist of (class, order, family, species)."""
    rows = [
        ("Animalia", "Chordata", class_, order, family, name.split()[0], name)
        for class_, order, family, name in species
    ]
    pl.DataFrame(rows, dict.fromkeys(RANKS, pl.String), orient="row").write_csv(folder / "names.csv")
    return Checklist.open([folder / "names.csv"])


def value(traits: TraitTable, species: str, label: str) -> bool | None:
    return traits.table.filter(pl.col("species") == species)[label].item()


def texts(traits: TraitTable, species: str, column: str) -> dict[str, str]:
    return json.loads(traits.table.filter(pl.col("species") == species)[column].item() or "{}")


def match_of(traits: TraitTable, name: str) -> tuple[str, str] | None:
    found = traits.matches.filter(pl.col("source_name") == name).select("species", "name_match").rows()
    assert len(found) < 2
    return found[0] if found else None


def letters(i: int) -> str:
    return "".join(chr(ord("a") + int(digit)) for digit in f"{i:04d}")


def all_cases(source: str) -> Iterator[tuple[str, str, bool | None]]:
    for label, (true, false, null) in CASES[source].items():
        for expected, cells in ((True, true), (False, false), (None, [*null, ""])):
            yield from ((label, text, expected) for text in cells)


@pytest.mark.parametrize("source", [name for name in CASES if CASES[name]])
def test_every_rule_says_what_it_should_at_its_edges(tmp_path: Path, source: str) -> None:
    cases = list(all_cases(source))
    rows = [named(source, f"Casus {letters(i)}", text) for i, (_, text, _) in enumerate(cases)]
    table = read_traits(write(tmp_path, **{source: rows})).table
    wrong = []
    for i, (label, text, expected) in enumerate(cases):
        got = table.filter(pl.col("species") == f"Casus {letters(i)}")[label].item()
        if got is not expected:
            wrong.append((label, text, expected, got))
    assert not wrong


@pytest.mark.parametrize("source", list(trait_sources()))
def test_every_rule_has_a_test_for_all_that_it_can_say(source: str) -> None:
    rules = {rule.label: rule for rule in trait_sources()[source].rules}
    assert rules.keys() == CASES[source].keys()
    for label, (true, false, null) in CASES[source].items():
        assert bool(true) == bool(rules[label].true), label
        assert bool(false) == bool(rules[label].false), label
        assert null, label


def test_the_rules_are_about_the_34_labels_and_the_columns_that_they_name() -> None:
    for source in trait_sources().values():
        assert {rule.label for rule in source.rules} <= set(TRAITS)
        assert set(source.columns.values()) <= {"text", *KINDS}
        published = {as_rule_column(name) for name in LAYOUTS[source.name][1].split(",")}
        assert source.needs <= published, source.name
        known = {*source.columns, *source.derived, "source_name", "source_family", "source_order"}
        for rule in source.rules:
            assert rule.true or rule.false, (source.name, rule.label)
            assert set(rule.expression().meta.root_names()) <= known, (source.name, rule.label)
            assert not rule.null.endswith(".")
            assert not rule.note or rule.note.endswith(".")


def test_only_crepuscular_birds_and_the_like_have_no_rule_at_all() -> None:
    by_class: dict[str, set[str]] = {}
    for source in trait_sources().values():
        by_class.setdefault(source.class_, set()).update(rule.label for rule in source.rules)
    assert set(TRAITS) - by_class["Aves"] == {"crepuscular", "lives_in_groups"}
    zones = {"tropical", "temperate", "polar", "resident", "migratory"}
    assert set(TRAITS) - by_class["Mammalia"] == zones
    assert set(TRAITS) - by_class["Amphibia"] == zones | {
        "eats_fish", "eats_carrion", "eats_nectar", "forest", "shrub_or_grassland", "coast_or_sea", "desert_or_rock",
        "human_modified", "lives_in_groups",
    }  # fmt: skip


def test_the_kakapo_is_named_because_it_stands_among_the_parrots(tmp_path: Path) -> None:
    rows = [
        named("eltontraits_birds", name, "BLFamilyLatin=Psittacidae")
        for name in ("Strigops habroptila", "Ara ararauna")
    ]
    traits = read_traits(write(tmp_path, eltontraits_birds=rows))
    assert value(traits, "Strigops habroptila", "flies") is False
    assert value(traits, "Ara ararauna", "flies") is True


def test_without_a_checklist_every_name_stands_for_itself(tmp_path: Path) -> None:
    traits = read_traits(write(tmp_path, avonet=[named("avonet", "Parus major", "Migration=1")]))
    assert dict(traits.table.schema) == TRAIT_SCHEMA
    assert match_of(traits, "Parus major") == ("Parus major", "same")
    assert texts(traits, "Parus major", "traits_source") == {"migratory": "avonet", "resident": "avonet"}
    assert texts(traits, "Parus major", "traits_conflict") == {}


def test_where_sources_disagree_the_first_is_right_and_the_difference_is_kept(tmp_path: Path) -> None:
    birds = [named("avonet", "Parus major", "Trophic_Niche=Frugivore Trophic_Level=Herbivore")]
    elton = [named("eltontraits_birds", "Parus major", BOTH.format(100, 0))]
    traits = read_traits(write(tmp_path, avonet=birds, eltontraits_birds=elton))
    assert value(traits, "Parus major", "eats_fruit") is True
    assert value(traits, "Parus major", "omnivore") is False
    assert value(traits, "Parus major", "eats_invertebrates") is True
    source = texts(traits, "Parus major", "traits_source")
    assert source["eats_fruit"] == "avonet"
    assert source["omnivore"] == "avonet, eltontraits_birds"
    assert source["eats_invertebrates"] == "eltontraits_birds"
    assert list(source) == sorted(source)
    assert texts(traits, "Parus major", "traits_conflict") == {
        "carnivore": "avonet: false, eltontraits_birds: true",
        "eats_fruit": "avonet: true, eltontraits_birds: false",
        "herbivore": "avonet: true, eltontraits_birds: false",
    }


def test_the_row_under_the_accepted_name_speaks_before_those_of_its_synonyms(tmp_path: Path) -> None:
    rows = [
        named("avonet", "Parus major", "Migration=1"),
        named("avonet", "Parus major", "Habitat=Forest"),
        named("avonet", "Parus major minor", "Migration=3 Trophic_Niche=Frugivore"),
        named("avonet", "Parus ater", "Migration=1"),
        named("avonet", "Parus ater", "Migration=3 Habitat=Forest"),
    ]
    traits = read_traits(write(tmp_path, avonet=rows))
    assert value(traits, "Parus major", "forest") is True
    assert value(traits, "Parus ater", "forest") is True
    assert value(traits, "Parus ater", "migratory") is None
    assert texts(traits, "Parus ater", "traits_conflict")["migratory"] == "avonet: true and false"
    assert value(traits, "Parus major", "eats_fruit") is True  # a subspecies counts as its species


def test_a_synonym_speaks_for_the_accepted_species_and_is_named(tmp_path: Path) -> None:
    checklist = checklist_of(tmp_path, ("Aves", "Passeriformes", "Paridae", "Parus major"))

    class WithSynonym(Checklist):
        def decide_all(self, names: pl.DataFrame) -> pl.DataFrame:
            means = pl.when(pl.col("scientific_name").is_in(["Parus vetus", "Parus antiquus"])).then(
                pl.lit("Parus major")
            )
            return names.with_columns(means.alias("species"), pl.lit("Aves").alias("class"))

    checklist.__class__ = WithSynonym
    rows = [
        named("avonet", "Parus major", "Migration=1"),
        named("avonet", "Parus vetus", "Migration=3 Habitat=Forest Trophic_Niche=Frugivore"),
        named("avonet", "Parus antiquus", "Habitat=Marine Trophic_Niche=Frugivore"),
    ]
    traits = read_traits(write(tmp_path, avonet=rows), checklist)
    assert match_of(traits, "Parus vetus") == ("Parus major", "synonym")
    assert value(traits, "Parus major", "migratory") is False
    assert value(traits, "Parus major", "forest") is None
    assert value(traits, "Parus major", "eats_fruit") is True
    source = texts(traits, "Parus major", "traits_source")
    assert source["resident"] == "avonet"
    assert source["eats_fruit"] == "avonet (as Parus antiquus and Parus vetus)"


def frogs(*names: str, family: str = "Hylidae") -> list[dict[str, str]]:
    return [named("amphibio", name, f"Order=Anura Family={family} Noc=1") for name in names]


def test_a_species_of_a_new_genus_takes_the_row_with_its_epithet(tmp_path: Path) -> None:
    checklist = checklist_of(tmp_path, ("Amphibia", "Anura", "Hylidae", "Dryophytes cinereus"))
    traits = read_traits(write(tmp_path, amphibio=frogs("Hyla cinerea", "Hyla alba")), checklist)
    assert match_of(traits, "Hyla cinerea") == ("Dryophytes cinereus", "moved genus")
    assert match_of(traits, "Hyla alba") is None
    assert texts(traits, "Dryophytes cinereus", "traits_source")["nocturnal"] == "amphibio (as Hyla cinerea)"
    count = traits.counts.row(0, named=True)
    assert (count["n_same"], count["n_moved"], count["n_unresolved"]) == (0, 1, 1)


def test_a_species_of_a_dataset_may_have_moved_too(tmp_path: Path) -> None:
    checklist = checklist_of(tmp_path, ("Amphibia", "Anura", "Bufonidae", "Bufo bufo"))
    species = pl.DataFrame(
        [("Dryophytes cinereus", "Amphibia", "Anura", "Hylidae")], ["species", "class", "order", "family"], orient="row"
    )
    folder = write(tmp_path, amphibio=frogs("Hyla cinerea"))
    assert match_of(read_traits(folder, checklist), "Hyla cinerea") is None
    assert match_of(read_traits(folder, checklist, species), "Hyla cinerea") == ("Dryophytes cinereus", "moved genus")


@pytest.mark.parametrize(
    ("accepted", "rows"),
    [
        (["Dryophytes cinereus"], ["Hyla cinerea", "Litoria cinerea"]),
        (["Dryophytes cinereus", "Smilisca cinerea"], ["Hyla cinerea"]),
        (["Dryophytes cinereus", "Hyla cinerea"], ["Hyla cinerea"]),
        (["Dryophytes cinereoides"], ["Hyla cinerea"]),
    ],
)
def test_a_moved_genus_must_be_the_only_possibility(tmp_path: Path, accepted: list[str], rows: list[str]) -> None:
    checklist = checklist_of(tmp_path, *(("Amphibia", "Anura", "Hylidae", name) for name in accepted))
    traits = read_traits(write(tmp_path, amphibio=frogs(*rows)), checklist)
    assert "moved genus" not in traits.matches["name_match"]


def test_an_epithet_moves_between_families_only_where_the_table_lacks_the_family(tmp_path: Path) -> None:
    checklist = checklist_of(tmp_path, ("Amphibia", "Anura", "Hylidae", "Dryophytes cinereus"))
    folder = write(tmp_path, amphibio=[*frogs("Hyla alba"), *frogs("Rana cinerea", family="Ranidae")])
    assert match_of(read_traits(folder, checklist), "Rana cinerea") is None
    write(tmp_path, amphibio=frogs("Rana cinerea", family="Ranidae"))
    assert match_of(read_traits(folder, checklist), "Rana cinerea") == ("Dryophytes cinereus", "moved genus")


def test_a_genus_that_lives_in_another_family_has_not_moved(tmp_path: Path) -> None:
    at_home = ("Amphibia", "Anura", "Ranidae", "Rana arvalis")
    checklist = checklist_of(tmp_path, ("Amphibia", "Anura", "Hylidae", "Dryophytes cinereus"), at_home)
    traits = read_traits(write(tmp_path, amphibio=frogs("Rana cinerea", family="Ranidae")), checklist)
    assert match_of(traits, "Rana cinerea") is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Picus niger", "Hyla nigra"),
        ("Picus niger", "Hyla nigrum"),
        ("Hyla cinerea", "Dryophytes cinereus"),
        ("Parus viridis", "Carduelis viride"),
        ("Falco cooperi", "Accipiter cooperii"),
        ("Falco cooperii", "Accipiter cooperii"),
        ("Aus minor", "Bus minor"),
        ("Aus alba", "Bus albus"),
    ],
)
def test_the_gender_of_an_epithet_does_not_matter(one: str, other: str) -> None:
    stems = pl.DataFrame({"name": [one, other]}).select(epithet_stem("name"))["name"]
    assert stems[0] == stems[1]


@pytest.mark.parametrize(("one", "other"), [("A minor", "B minimus"), ("A alba", "B albida"), ("A major", "B maja")])
def test_other_epithets_stay_apart(one: str, other: str) -> None:
    stems = pl.DataFrame({"name": [one, other]}).select(epithet_stem("name"))["name"]
    assert stems[0] != stems[1]


def test_a_name_of_another_class_is_not_taken(tmp_path: Path) -> None:
    checklist = checklist_of(tmp_path, ("Insecta", "Diptera", "Tabanidae", "Hyla cinerea"))
    traits = read_traits(write(tmp_path, amphibio=frogs("Hyla cinerea")), checklist)
    assert not len(traits.table)
    assert traits.counts["n_unresolved"].item() == 1


def test_hostile_rows_are_counted_and_harm_nothing(tmp_path: Path) -> None:
    names = [
        "",
        "NA",
        "Hyla",
        "Hyla sp",
        "hyla alba",
        'Hyla "alba',
        "Hyla alba/nigra",
        "Hyla x alba nigra",
        "Hyla \u0430lba",
    ]
    rows = [{**row, "Species": name} for row, name in zip(frogs(*["Hyla alba"] * len(names)), names, strict=True)]
    rows += frogs("Hyla Nigra")  # an epithet with a capital is still that epithet
    rows.append(named("amphibio", "Hyla rubra", "Noc=yes Diu=7 Ter=-9 Arb=1 Aqu=inf Vert=NaN"))
    text = table_text("amphibio", rows).replace('Hyla "alba', '"Hyla ""alba"').encode()
    (tmp_path / LAYOUTS["amphibio"][0]).write_bytes(text)
    traits = read_traits(tmp_path)
    assert traits.table["species"].to_list() == ["Hyla nigra", "Hyla rubra"]
    assert [label for label in TRAITS if value(traits, "Hyla rubra", label) is not None] == ["climbs", "perching"]
    count = traits.counts.row(0, named=True)
    assert (count["n_rows"], count["n_blank"], count["n_bad_name"]) == (11, 2, 7)
    assert count["n_unreadable"] == 5


def test_a_table_that_breaks_off_is_refused(tmp_path: Path) -> None:
    text = table_text("amphibio", frogs("Hyla alba")).encode()
    (tmp_path / "a.csv").write_bytes(text + b'Anf1,Anura,Hylidae,Hyla,Hyla flava,1,1,"\xe9')
    with pytest.raises(DatasetError, match=r"a\.csv: not a readable table"):
        read_traits(tmp_path)


def test_the_comments_of_eltontraits_may_run_over_two_lines(tmp_path: Path) -> None:
    rows = [named("eltontraits_birds", name, "Nocturnal=1") for name in ("Strix aluco", "Strix varia")]
    rows[0] |= {"ForStrat-Source": '"Ref_33\n"'}
    (tmp_path / "birds.txt").write_text(table_text("eltontraits_birds", rows))
    traits = read_traits(tmp_path)
    assert traits.counts["n_rows"].item() == 2
    assert value(traits, "Strix aluco", "nocturnal") is True


def test_latin_1_names_of_people_do_not_stop_a_table(tmp_path: Path) -> None:
    rows = [named("eltontraits_birds", "Zanda baudinii", "Diet_Seed=100") | {"English": "Baudin@s"}]
    text = table_text("eltontraits_birds", rows).encode().replace(b"@", b"\x92")
    (tmp_path / "birds.txt").write_bytes(text)
    assert value(read_traits(tmp_path), "Zanda baudinii", "eats_seeds") is True


def test_anage_is_known_and_counted_but_says_nothing(tmp_path: Path) -> None:
    traits = read_traits(write(tmp_path, anage=[named("anage", "Hyla arborea", "Class=Amphibia Order=Anura")]))
    assert traits.counts.row(0, named=True)["n_rows"] == 1
    assert not len(traits.table)


def test_a_table_that_is_not_known_is_refused_by_name_and_left_alone_in_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, avonet=[named("avonet", "Parus major", "Migration=1")])
    other = tmp_path / "other.csv"
    other.write_text("species,legs\nParus major,2\n")
    (tmp_path / "README.md").write_text("# not a table\n")
    assert len(read_traits(tmp_path).table) == 1
    assert "other.csv: no trait table that is known here; left alone" in capsys.readouterr().err
    with pytest.raises(DatasetError, match=r"other\.csv.*no trait table that is known"):
        read_traits([other])
    with pytest.raises(DatasetError, match="no such table"):
        read_traits(tmp_path / "missing.csv")


def test_what_lies_beside_the_tables_is_left_alone_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, avonet=[named("avonet", "Parus major", "Migration=1")])
    newer = LAYOUTS["avonet"][1].replace("Species1", "Species1_BirdLife")
    (tmp_path / "newer.csv").write_text(f"{newer}\n")
    (tmp_path / "AVONET.xlsx").write_bytes(b"PK")
    (tmp_path / "LICENSE.txt").touch()
    (tmp_path / "._AVONET1_BirdLife.csv").write_bytes(bytes(range(256)))
    (tmp_path / "sub.csv").mkdir()
    assert len(read_traits(tmp_path).table) == 1
    said = capsys.readouterr().err.splitlines()
    assert [line.rpartition("/")[2] for line in said] == [
        "AVONET.xlsx: no trait table that is known here; save it as one of .csv, .txt, .tsv; left alone",
        "LICENSE.txt: not a readable table (empty CSV); left alone",
        "newer.csv: no trait table that is known here: like AVONET, BirdLife taxonomy (AVONET1_BirdLife.csv), "
        "but without Species1; left alone",
    ]


def test_a_folder_without_a_known_table_and_a_source_given_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no trait table"):
        read_traits(tmp_path)
    write(tmp_path, avonet=[named("avonet", "Parus major")])
    copy = tmp_path / "copy.csv"
    copy.write_bytes((tmp_path / LAYOUTS["avonet"][0]).read_bytes())
    with pytest.raises(DatasetError, match="the same source"):
        read_traits(tmp_path)


def test_coverage_counts_species_by_class_and_label(tmp_path: Path) -> None:
    birds = [
        named("avonet", "Parus major", "Migration=1"),
        named("avonet", "Parus ater", "Migration=3"),
        named("avonet", "Ara ara"),
    ]
    traits = read_traits(write(tmp_path, avonet=birds, amphibio=frogs("Hyla alba")))
    row = traits.coverage.filter((pl.col("class") == "Aves") & (pl.col("label") == "migratory")).row(0, named=True)
    assert row == {
        "class": "Aves", "label": "migratory", "n_species": 3, "n_known": 2, "n_true": 1, "n_disputed": 0,
    }  # fmt: skip
    assert len(traits.coverage) == 2 * len(TRAITS)


def test_the_table_serves_as_the_traits_of_a_checklist(tmp_path: Path) -> None:
    checklist = checklist_of(tmp_path, ("Amphibia", "Anura", "Hylidae", "Hyla alba"))
    folder = tmp_path / "tables"
    folder.mkdir()
    checklist.traits = read_traits(write(folder, amphibio=frogs("Hyla alba")), checklist).table
    row = checklist.table().filter(pl.col("species") == "Hyla alba").row(0, named=True)
    assert row["nocturnal"] is True
    assert row["diurnal"] is None
    assert json.loads(row["traits_source"])["nocturnal"] == "amphibio"


def test_fast_combining_equals_a_plain_loop(tmp_path: Path) -> None:
    import numpy as np

    draw = np.random.default_rng(5)
    sources = ("avonet", "eltontraits_birds")
    rows: dict[str, list[dict[str, str]]] = {source: [] for source in sources}
    for source in sources:
        for i in draw.integers(0, 12, 40):
            label = list(CASES[source])[draw.integers(len(CASES[source]))]
            choices = [text for kind in CASES[source][label] for text in kind]
            rows[source].append(named(source, f"Avis {letters(int(i))}", choices[draw.integers(len(choices))]))
    traits = read_traits(write(tmp_path, **rows))
    alone = {}
    for source in sources:
        for i, row in enumerate(rows[source]):
            home = tmp_path / f"{source}{i}"
            home.mkdir()
            one = read_traits(write(home, **{source: [row]})).table.row(0, named=True)
            for label in TRAITS:
                if one[label] is not None:
                    alone.setdefault((one["species"], label), {}).setdefault(source, set()).add(one[label])
    assert any(len(said) == 2 for said in alone.values())
    for species in traits.table["species"]:
        source, conflict = (texts(traits, species, column) for column in ("traits_source", "traits_conflict"))
        for label in TRAITS:
            said = alone.get((species, label), {})
            clear = {name: next(iter(values)) for name, values in said.items() if len(values) == 1}
            best = next(iter(clear.values()), None)
            assert value(traits, species, label) is best, (species, label, said)
            assert source.get(label) == (", ".join(name for name, one in clear.items() if one == best) or None)
            disputed = len(clear) < len(said) or len(set(clear.values())) > 1
            assert (label in conflict) == disputed


def page(name: str) -> str:
    return runpy.run_path(str(ROOT / "benchmarks" / "traits.py"))[name]()


def test_the_page_of_rules_is_the_one_in_docs() -> None:
    made = page("rules_page")
    assert made == (ROOT / "docs" / "traits.md").read_text(encoding="utf-8"), "write docs/traits.md again"
    assert all(f"`{label}`" in made for label in TRAITS)


@pytest.fixture(scope="module")
def published() -> TraitTable:
    if not (SHARED / "traits").is_dir():
        pytest.skip("shared/data/traits is not beside this checkout")
    return read_traits(SHARED / "traits")


COMMON_KNOWLEDGE = {
    "Bubo virginianus": "nocturnal -diurnal eats_vertebrates -eats_nectar carnivore resident flies forest -terrestrial",
    "Haliaeetus leucocephalus": "eats_fish eats_vertebrates eats_carrion carnivore flies wetland -nocturnal",
    "Branta canadensis": "herbivore eats_plants swims flies migratory -eats_fish -nocturnal walks",
    "Archilochus colubris": "eats_nectar eats_invertebrates migratory -resident flies -walks -eats_fish temperate",
    "Passer domesticus": "human_modified eats_seeds resident -migratory flies diurnal",
    "Aptenodytes forsteri": "-flies swims aquatic eats_fish coast_or_sea polar carnivore",
    "Dendrocopos major": "climbs flies forest eats_invertebrates",
    "Lithobates catesbeianus": "aquatic swims eats_invertebrates eats_vertebrates nocturnal -flies wetland",
    "Hyla versicolor": "climbs nocturnal -flies eats_invertebrates carnivore",
    "Myotis lucifugus": "flies nocturnal -diurnal eats_invertebrates carnivore -swims aerial",
    "Ursus americanus": "omnivore -herbivore eats_fruit eats_vertebrates walks -flies terrestrial",
    "Castor canadensis": "herbivore swims aquatic eats_plants -eats_fish wetland nocturnal crepuscular",
    "Phoca vitulina": "eats_fish swims aquatic coast_or_sea carnivore -flies",
    "Bison bison": "herbivore lives_in_groups walks terrestrial -flies -carnivore",
}


@needs_tables
@pytest.mark.parametrize("species", list(COMMON_KNOWLEDGE))
def test_well_known_species_are_as_everybody_knows_them(published: TraitTable, species: str) -> None:
    row = published.table.filter(pl.col("species") == species).row(0, named=True)
    for word in COMMON_KNOWLEDGE[species].split():
        label = word.removeprefix("-")
        assert row[label] is (not word.startswith("-")), (label, row[label])


@needs_tables
def test_no_published_number_is_unreadable_and_every_row_is_accounted_for(published: TraitTable) -> None:
    assert published.counts["n_unreadable"].sum() == 0
    rows = dict(
        published.counts.select("source", pl.col("n_rows") - pl.col("n_blank") - pl.col("n_bad_name")).iter_rows()
    )
    assert rows == {
        "avonet": 11009, "eltontraits_birds": 9993, "eltontraits_mammals": 5400, "combine": 6250, "amphibio": 6776,
        "anage": 4219,
    }  # fmt: skip


@needs_tables
def test_nearly_all_birds_mammals_and_amphibians_of_the_wildlife_set_have_traits() -> None:
    figures = runpy.run_path(str(ROOT / "benchmarks" / "traits.py"))["wildlife"](SHARED)
    assert figures["n_resolved"] >= 40
    assert figures["n_with_traits"] >= 0.9 * figures["n_resolved"]
