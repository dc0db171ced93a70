"""Neighbour lists of many systems at once, periodic or not, in canonical order, kept while they are complete."""

from campaign.neighbors.compute import compute_neighbors, is_coo, write_rows
from campaign.neighbors.rows import NeighborRows
from campaign.neighbors.search import describe_search
from campaign.neighbors.skin import allowed_displacement
from campaign.neighbors.verlet import VerletList

__all__ = ["NeighborRows", "VerletList", "allowed_displacement", "compute_neighbors", "describe_search", "is_coo", "write_rows"]
