"""What a campaign found: lazy views of a store, formation energies and hulls, figures.

Functions take a view and return pandas or Dask collections; figures take those. Dask, pandas, scipy and plotly are imported where they
are first used.
"""

from campaign.analysis.composition import Compositions
from campaign.analysis.hull import HULL_WHERE, Hull, compute_hull, hull_of
from campaign.analysis.select import Where, parse_where
from campaign.analysis.structure import atoms_from_row
from campaign.analysis.systems import Systems
from campaign.analysis.view import StoreView

__all__ = [
    "HULL_WHERE",
    "Compositions",
    "Hull",
    "StoreView",
    "Systems",
    "Where",
    "atoms_from_row",
    "compute_hull",
    "hull_of",
    "parse_where",
]
