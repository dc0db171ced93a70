"""A dynamics whose batch is refilled while it runs: who leaves goes to a sink, who comes is from a sampler.

This is the part of the dynamics contract that `BaseDynamics` inherits; how a campaign refills is `relax.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from campaign.data import Batch
from campaign.dynamics.exchange import append_newcomers, bookkeep, newcomers_for
from campaign.errors import SamplerError, SinkFullError

if TYPE_CHECKING:
    from campaign.dynamics.sampler import Sampler
    from campaign.dynamics.sinks import DataSink

__all__ = ["InFlightMixin"]


class InFlightMixin:
    """Sinks, sampler and the batch in flight of a dynamics."""

    _bookkeeping_keys: dict[str, Callable[[int, torch.device], Tensor]] = {  # noqa: RUF012
        "status": lambda n, device: torch.zeros(n, 1, dtype=torch.int64, device=device),
        "system_id": lambda n, device: torch.full((n, 1), -1, dtype=torch.int64, device=device),
    }

    _last_converged: Int64[Tensor, " M"] | None

    def _init_in_flight(
        self,
        sinks: Sequence[DataSink] | None,
        sampler: Sampler | None,
        refill_frequency: int,
        active_batch: Batch | None,
        max_batch_size: int,
        done: bool,
        device_type: str | None,
    ) -> None:
        self.sinks: list[DataSink] = list(sinks or ())
        self.sampler = sampler
        self.refill_frequency = refill_frequency
        self.active_batch = active_batch
        self.max_batch_size = max_batch_size
        self.done = done
        self.device_type = device_type or ("cuda" if torch.cuda.is_available() else "cpu")

    def _sync_state_to_batch(self, remaining_indices: Int64[Tensor, " M"], n_new: int, template_batch: Batch) -> None:
        """Keep per-system state in step with the batch; there is none here."""

    @classmethod
    def register_bookkeeping_key(cls, key: str, init_fn: Callable[[int, torch.device], Tensor]) -> None:
        """Declare a key per system that newly admitted systems get, as `init_fn(n, device)` of shape [n, 1]."""
        cls._bookkeeping_keys = {**cls._bookkeeping_keys, key: init_fn}

    def refill_check(self, batch: Batch, exit_status: int) -> Batch | None:
        """Write systems with `status >= exit_status` to a sink and put new ones from the sampler in their place.

        Returns the batch itself if none leaves, otherwise a new one; None, and `done` is set, if nothing is left to work on.

        Raises:
            SamplerError: there is no sampler (a RuntimeError).
            SinkFullError: all sinks are full.
        """
        if self.sampler is None:
            raise SamplerError(f"{type(self).__name__}.refill_check was called without a sampler; it needs one. Pass sampler=.")
        leaving = batch["status"].view(-1) >= exit_status
        if not bool(leaving.any()):
            return batch
        self._last_converged = None
        if self.sinks:
            self._write_to_sink(batch, leaving)
        remaining = torch.where(~leaving)[0]
        kept = batch.index_select(remaining) if len(remaining) else None
        newcomers = newcomers_for(self.sampler, kept, batch.device)
        n_new = 0 if newcomers is None else newcomers.num_graphs
        result = append_newcomers(kept, newcomers, self._bookkeeping_keys)
        if result is None:
            self.done = bool(self.sampler.exhausted)
            self._sync_state_to_batch(remaining, 0, batch)
            return None
        bookkeep(result, self._bookkeeping_keys)
        self._sync_state_to_batch(remaining, n_new, result)
        return result

    def _write_to_sink(self, batch: Batch, mask: Bool[Tensor, " N"] | None = None) -> None:
        for sink in self.sinks:
            if not sink.is_full:
                # A sink with some room but too little refuses as a whole; the next one may have enough.
                with suppress(SinkFullError):
                    sink.write(batch, mask=mask)
                    return
        count = batch.num_graphs if mask is None else int(mask.sum())
        raise SinkFullError(f"no sink has room for {count} systems that leave the batch; one must. Add a sink, or drain one.")

    @property
    def device(self) -> torch.device:
        """Device of `device_type`."""
        return torch.device(self.device_type)

    @property
    def inflight_mode(self) -> bool:
        """Whether systems come from a sampler."""
        return self.sampler is not None

    @property
    def active_batch_size(self) -> int:
        """Systems in `active_batch`."""
        return 0 if self.active_batch is None else self.active_batch.num_graphs

    @property
    def room_in_active_batch(self) -> int:
        """Systems that `active_batch` may still take up to `max_batch_size`."""
        return max(0, self.max_batch_size - self.active_batch_size)

    @property
    def active_batch_has_room(self) -> bool:
        """Whether `active_batch` may take more."""
        return self.room_in_active_batch > 0
