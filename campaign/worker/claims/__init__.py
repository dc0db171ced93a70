"""Who works on what: the ranks of an array task claim blocks of its assignment, each position exactly once.

`mpi.MpiClaims` counts blocks by one-sided MPI, `files.FileClaims` by files created exclusively. Both pass the contract suite in
`campaign.testing.claims_contract`. They are imported by their full names, because one of them loads an MPI library.
"""

from campaign.worker.claims.blocks import ClaimBlocks, plan_blocks
from campaign.worker.claims.protocol import Claims

__all__ = ["ClaimBlocks", "Claims", "plan_blocks"]
