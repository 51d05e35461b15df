"""What must stay together in one split: the files of one individual, and near-duplicates of one another."""

import polars as pl

from biovita.tables import stands_beside_several


def merged(groups: pl.Series, *links: pl.Series) -> pl.Series:
    """Merge groups that have a link in common, and return the group of every row.

    A merged group bears the smallest of its names, so the result does not depend on the order of rows, and groups
    without links in common keep their names.

    Args:
        groups: the group of every row so far.
        links: labels of the rows, null where there is none; rows with the same label come together.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while (above := parent.get(name, name)) != name:
            parent[name] = parent.get(above, above)
            name = above
        return name

    for labels in links:
        pairs = pl.DataFrame({"group": groups, "label": labels}).filter(stands_beside_several(labels, groups)).unique()
        first = pairs.select("group", first=pl.col("group").min().over("label"))
        for one, other in first.filter(pl.col("group") != pl.col("first")).iter_rows():
            low, high = sorted((root(one), root(other)))
            parent[high] = low  # a root may become its own parent
    schema = {"group": groups.dtype, "root": groups.dtype}
    renamed = pl.DataFrame([(name, root(name)) for name in parent], schema, orient="row")
    rows = groups.alias("group").to_frame().join(renamed, on="group", how="left", maintain_order="left")
    return rows.select(pl.coalesce("root", "group").alias(groups.name)).to_series()
