"""Where documents begin and end in a batch of rows, from either of the two spellings that operators accept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Documents:
    """Documents of a batch of B rows of T tokens. Rows are numbered 0 … T−1 within their batch row.

    A *carried* document is one whose state the caller may hand in and take out; there are N of them, N/B in each
    batch row. With `cu_seqlens` these are all documents (B = 1). Otherwise each batch row carries one state: its
    first document continues the initial state, its last document leaves the final one.
    """

    starts: Tensor
    """int64 `[B, T]`: the row at which each row's document starts."""
    carried: Tensor
    """int64 `[B, T]`: which of the N carried documents a row continues from the initial state, −1 for none."""
    entry: Tensor
    """int64 `[N]`: the row at which each carried document's initial state applies."""
    exit: Tensor
    """int64 `[N]`: the row after the last row that each carried document's final state covers."""
    exit_start: Tensor
    """int64 `[N]`: the row at which the document left in the final state starts."""

    @property
    def ends(self) -> Tensor:
        """int64 `[B, T]`: the last row of each row's document."""
        length = self.starts.shape[1]
        rows = torch.arange(length, device=self.starts.device).expand_as(self.starts)
        closes = torch.ones_like(self.starts, dtype=torch.bool)
        closes[:, :-1] = self.starts[:, 1:] == rows[:, 1:]
        return torch.where(closes, rows, length).flip(1).cummin(1).values.flip(1)

    def positions(self, initial: Tensor) -> Tensor:
        """int64 `[B, T]`: each row's position in its document, whose carried ones stand at `initial [N]` on entry."""
        length = self.starts.shape[1]
        rows = torch.arange(length, device=self.starts.device)
        continued = torch.cat([initial, initial.new_zeros(1)])[self.carried]  # index −1 takes the zero
        return rows - self.starts + continued

    def final_positions(self, initial: Tensor) -> Tensor:
        """int64 `[N]`: tokens seen by each document that a final state is left of."""
        return self.exit - self.exit_start + torch.where(self.exit_start == self.entry, initial, 0)


def documents_of(
    batch: int, length: int, cu_seqlens: Tensor | None, document_starts: Tensor | None, device: torch.device
) -> Documents:
    """The documents of `[batch, length]` tokens; without either argument every batch row is one document.

    Raises ValueError as `check_packing_shape` and `check_packing` do. Never waits for a GPU.
    """
    check_packing_shape(batch, length, cu_seqlens, document_starts)
    check_packing(length, cu_seqlens, document_starts)
    rows = torch.arange(length, device=device)
    if cu_seqlens is not None:
        bounds = cu_seqlens.to(device, torch.int64)
        document = torch.searchsorted(bounds[1:], rows, right=True)
        starts, carried = bounds[document].unsqueeze(0), document.unsqueeze(0)
        return Documents(starts, carried, entry=bounds[:-1], exit=bounds[1:], exit_start=bounds[:-1])
    first = torch.zeros(batch, dtype=torch.int64, device=device)
    carried = torch.arange(batch, device=device).unsqueeze(1).expand(batch, length)
    if document_starts is None:
        starts = first.unsqueeze(1).expand(batch, length)
        return Documents(starts, carried, entry=first, exit=first + length, exit_start=first)
    starts = document_starts.to(device, torch.int64)
    return Documents(
        starts,
        carried.where(starts == 0, -1),
        entry=first,
        exit=first + length,
        exit_start=starts[:, -1] if length else first,
    )


def check_packing_shape(batch: int, length: int, cu_seqlens: Tensor | None, document_starts: Tensor | None) -> None:
    """At most one of the two, of the right shape. Raises ValueError: the argument, what was found, what is allowed."""
    if cu_seqlens is not None and document_starts is not None:
        raise ValueError("give cu_seqlens or document_starts, not both")
    if cu_seqlens is not None and batch != 1:
        raise ValueError(f"cu_seqlens packs documents into one flattened row, so B must be 1, but B = {batch}")
    if cu_seqlens is not None and (cu_seqlens.ndim != 1 or len(cu_seqlens) < 2):
        raise ValueError(
            f"cu_seqlens must be one-dimensional with documents + 1 entries, got shape {list(cu_seqlens.shape)}"
        )
    if document_starts is not None and document_starts.shape != (batch, length):
        raise ValueError(
            f"document_starts must have shape [B, T] = [{batch}, {length}], got {list(document_starts.shape)}"
        )


def check_packing(length: int, cu_seqlens: Tensor | None, document_starts: Tensor | None) -> None:
    """The values of packing arguments of the right shape. Raises ValueError naming the argument and what was found.

    Values on a GPU end the program with an assertion there, later than this returns: looking at them would make the
    host wait for the device.
    """
    if cu_seqlens is not None:
        _check_bounds(cu_seqlens, length)
    if document_starts is not None:
        _check_starts(document_starts, length)


def _check_bounds(bounds: Tensor, length: int) -> None:
    rule = f"cu_seqlens must not decrease, start at 0 and end at T = {length}"
    right = (bounds.diff() >= 0).all() & (bounds[0] == 0) & (bounds[-1] == length)
    if bounds.is_cuda:
        torch._assert_async(right, rule)
    elif not right:
        raise ValueError(f"{rule}; got {_shortened(bounds.tolist())}")


def _check_starts(starts: Tensor, length: int) -> None:
    rule = "a token either starts a document (its own row number) or has the start of the token before it"
    wrong = starts != torch.arange(length, device=starts.device)
    wrong[:, 1:] &= starts[:, 1:] != starts[:, :-1]
    if starts.is_cuda:
        torch._assert_async(~wrong.any(), f"document_starts: {rule}")
    elif wrong.any():
        b, t = wrong.nonzero()[0].tolist()
        raise ValueError(f"document_starts[{b}, {t}] = {int(starts[b, t])}, but {rule}")


def _shortened(values: list[int]) -> str:
    return (
        str(values)
        if len(values) <= 12
        else f"[{', '.join(map(str, values[:6]))}, …, {', '.join(map(str, values[-3:]))}]"
    )
