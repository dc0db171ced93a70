"""Relaxation campaigns on HPC: a million atomic structures in, one table of outcomes out.

`campaign.open` gives what a campaign found. Nothing heavy is imported here: `import campaign` loads neither torch nor zarr, dask or
prefect.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from campaign.analysis.view import StoreView
    from campaign.paths import CampaignPaths
    from campaign.store.targets import Target

__version__ = "0.1.0"


def open(target: str | Path | Target | CampaignPaths) -> StoreView:
    """Return a lazy view of a campaign or a store; nothing is computed.

    `target` is a campaign directory, any store (path, `s3://` or `gs://` URL, Zarr store object), or the paths of a campaign. A campaign
    without a published store is seen as it runs: what its shards have committed until now, and the inputs that were refused.

    Raises:
        StoreNotFoundError: there is neither a store nor a campaign.
        StoreDamagedError: its documents or pointers do not add up.

    >>> import campaign                                            # doctest: +SKIP
    >>> store = campaign.open("runs/cu-au")                        # doctest: +SKIP
    >>> store.table.groupby("outcome").size().compute()            # doctest: +SKIP
    >>> store.select("outcome == 'converged'")[:10].dataset        # doctest: +SKIP
    """
    from campaign.analysis.view import StoreView

    return StoreView.open(target)
