from __future__ import annotations

from pathlib import Path

import pytest

from campaign.paths import CampaignPaths


@pytest.fixture
def tmp_path_campaign(tmp_path: Path) -> CampaignPaths:
    """Paths of an empty campaign directory whose name has blanks, quotes and letters that are not ASCII."""
    root = tmp_path / "Cu–Au 'α' \"β\" ;"
    root.mkdir()
    return CampaignPaths(root)
