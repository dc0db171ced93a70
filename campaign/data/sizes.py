"""What a batch knows of its size, all of it following from whose the rows are."""

from __future__ import annotations

from jaxtyping import Int32
from torch import Tensor

from campaign.data.segments import Segments
from campaign.fields import Level

__all__ = ["Sizes"]


class Sizes:
    """Counts and pointers of N systems with A atoms and E edges in total."""

    atom_segments: Segments
    """Whose the atoms are; replaced whenever systems come, go or change places, and only then."""
    edge_segments: Segments
    """Whose the edges are."""

    @property
    def num_graphs(self) -> int:
        """N."""
        return self.atom_segments.n_segments

    batch_size = num_graphs

    @property
    def num_nodes(self) -> int:
        """A."""
        return self.atom_segments.n_rows

    @property
    def num_edges(self) -> int:
        """E."""
        return self.edge_segments.n_rows

    @property
    def batch_idx(self) -> Int32[Tensor, " A"]:
        """System of each atom."""
        return self.atom_segments.batch_idx

    @property
    def batch_ptr(self) -> Int32[Tensor, " N+1"]:
        """First atom of each system, and A."""
        return self.atom_segments.batch_ptr

    @property
    def num_nodes_list(self) -> list[int]:
        """Atoms of each system."""
        return list(map(int, self.atom_segments.lengths))

    @property
    def num_edges_list(self) -> list[int]:
        """Edges of each system."""
        return list(map(int, self.edge_segments.lengths))

    @property
    def num_nodes_per_graph(self) -> Int32[Tensor, " N"]:
        """Atoms of each system."""
        return self.atom_segments.lengths_on_device

    @property
    def num_edges_per_graph(self) -> Int32[Tensor, " N"]:
        """Edges of each system."""
        return self.edge_segments.lengths_on_device

    @property
    def max_num_nodes(self) -> int:
        """Atoms of the largest system; 0 without systems."""
        return int(self.atom_segments.lengths.max(initial=0))

    def n_rows(self, level: Level) -> int:
        """Return N, A or E."""
        return {Level.SYSTEM: self.num_graphs, Level.ATOM: self.num_nodes, Level.EDGE: self.num_edges}[level]
