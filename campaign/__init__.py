"""Relaxation campaigns on HPC: a million atomic structures in, one table of outcomes out.

Nothing heavy is imported here: `import campaign` loads neither torch nor zarr, dask or prefect.
"""

from __future__ import annotations

__version__ = "0.1.0"
