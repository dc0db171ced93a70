"""Taking a damaged file or folder out of use and putting a good one in its place, so that a kill at any moment loses neither.

Each repair has a numbered folder. What it takes out of use lies there under the path that it had; what is being built, under `new/`:

    damaged/0001/new/shards/X    being built; then exchanged with shards/X in one step where the file system can
    damaged/0001/shards/X        the original, for ever

Where names cannot be exchanged, the original is moved first; a kill before the new one follows is mended by `finish_earlier`. Nothing is
ever removed: what a killed repair had half built stays where it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from campaign.files import sync_folder, writing
from campaign.store.durable import make_folder_durably
from campaign.store.publication import exchange

_NEW: Final = "new"


class Aside:
    """The folder of one repair of the campaign directory `root`; it is made when it is first needed."""

    def __init__(self, root: Path, damaged: Path) -> None:
        self._root = root
        taken = [int(entry.name) for entry in damaged.iterdir() if entry.name.isdecimal()] if damaged.is_dir() else []
        self._folder = damaged / f"{max(taken, default=0) + 1:04d}"

    def staging(self, live: Path) -> Path:
        """Return where the new `live` is to be built; its parent is there.

        Raises:
            FileWriteError: it cannot be made.
        """
        place = self._folder / _NEW / live.relative_to(self._root)
        with writing(place.parent):
            make_folder_durably(place.parent)
        return place

    def place(self, live: Path) -> Path:
        """Return where the original of `live` will lie."""
        return self._folder / live.relative_to(self._root)

    def take_out(self, live: Path) -> None:
        """Move `live` away, durably.

        Raises:
            FileWriteError: it cannot be moved.
        """
        old = self.place(live)
        with writing(live):
            make_folder_durably(old.parent)
            _rename(live, old)

    def replace(self, live: Path) -> None:
        """Put what was built in `staging(live)` at `live`, durably, and the original, if there is one, into this folder.

        Raises:
            FileWriteError: it cannot be moved; the original is at its place, or in this folder.
        """
        staged, old = self.staging(live), self.place(live)
        with writing(live):
            if not live.exists():
                _rename(staged, live)
                return
            make_folder_durably(old.parent)
            if exchange(staged, live):
                sync_folder(live.parent)
                _rename(staged, old)
            else:
                _rename(live, old)
                _rename(staged, live)


def finish_earlier(root: Path, damaged: Path) -> None:
    """Do what is left of repairs that were killed between two renames.

    Raises:
        FileWriteError: something cannot be moved.
    """
    for folder in sorted(damaged.glob("[0-9]*")) if damaged.is_dir() else ():
        new = folder / _NEW
        for staged in [*new.glob("*.zarr"), *new.glob("*/*.zarr"), *new.glob("plans/*.json")]:
            live, old = root / staged.relative_to(new), folder / staged.relative_to(new)
            with writing(live):
                if not live.exists() and old.exists():
                    _rename(staged, live)  # whole, since the original was moved only then
                elif live.exists() and not old.exists():
                    make_folder_durably(old.parent)
                    _rename(staged, old)  # the original, exchanged already; or something half built, which is kept as well


def _rename(source: Path, target: Path) -> None:
    source.rename(target)
    sync_folder(target.parent)
    sync_folder(source.parent)
