"""A KV cache with room: it is written in place, and branches share what they have in common.

transformers' cache is concatenated anew with each piece of text that is read: a second copy of a
layer for a moment, and of all layers as soon as two continuations of one prompt are read. Here a
layer is as long from the start as it will be. A branch is a copy of the layer object alone: it
writes behind the prompt, over what an earlier branch left there.
"""

import copy
from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


def cache_with_room(config: Any, tokens: int, behind: int = 0) -> Any:
    """Make a cache for a row of so many tokens, and what comes behind them.

    Args:
        config: the model's. Kinds of layers that are not known here stay transformers' own.
        tokens: of the row.
        behind: tokens of the longest branch. More are read too, and cost a copy.
    """
    cache = DynamicCache(config=config)
    for index, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer:
            cache.layers[index] = RoomyLayer(tokens + behind)
        elif type(layer) is DynamicSlidingWindowLayer:
            cache.layers[index] = RoomyWindowLayer(layer.sliding_window, behind)
    if cache.layer_class_to_replicate is DynamicLayer:
        cache.layer_class_to_replicate = partial(RoomyLayer, tokens + behind)
    return cache


def cache_as_argument(forward: Callable[..., Any], cache: Any) -> dict[str, Any]:
    """Give a cache the name that a model's or a layer's `forward` has for it.

    It is `cache` since transformers 5.24, which warns where the older one is used;
    `past_key_values` before, and in code of a checkpoint's own.
    """
    names = signature(forward).parameters
    return {"cache" if "cache" in names else "past_key_values": cache}


def has_room(cache: Any) -> bool:
    """Tell whether branches of a cache share what they have in common, in every layer."""
    return all(isinstance(layer, RoomyLayer | RoomyWindowLayer) for layer in cache.layers)


def branch(cache: Any) -> Any:
    """Return a cache that goes its own way from here; only one branch at a time can be read on."""
    branched = copy.copy(cache)
    branched.layers = [copy.copy(layer) for layer in cache.layers]
    return branched


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of a layer that reads all: views of the used part of longer tensors."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self._tokens = tokens
        self._rooms: tuple[torch.Tensor, ...] = ()

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write behind what is there, and return all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        used = self.keys.shape[-2] if self._rooms else 0
        end = used + key_states.shape[-2]
        if not self._rooms:
            tokens = max(end, self._tokens)
            self._rooms = tuple(_room(s[:, :, :0], tokens) for s in (key_states, value_states))
        elif end > self._rooms[0].shape[-2]:
            self._rooms = tuple(_room(states, end) for states in (self.keys, self.values))
        for room, states in zip(self._rooms, (key_states, value_states), strict=True):
            room[:, :, used:end] = states
        self.keys, self.values = (room[:, :, :end] for room in self._rooms)
        return self.keys, self.values


class RoomyWindowLayer(DynamicSlidingWindowLayer):  # type: ignore[misc]
    """The last tokens of a layer with a window, and room for the next ones."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, sliding_window: int, behind: int) -> None:
        super().__init__(sliding_window)
        self._behind = behind
        self._rooms: tuple[torch.Tensor, ...] = ()
        self._end = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write behind what is there, and return the keys and values that the new tokens read."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        new = key_states.shape[-2]
        kept = self.keys.shape[-2] if self._rooms else 0
        self.cumulative_length += new
        end = self._end + new
        if self._rooms and end <= self._rooms[0].shape[-2]:
            for room, states in zip(self._rooms, (key_states, value_states), strict=True):
                room[:, :, self._end : end] = states
            keys, values = (room[:, :, self._end - kept : end] for room in self._rooms)
        else:
            # Tensors of its own: other branches go on with what they have.
            keys, values = key_states, value_states
            if kept:
                keys = torch.cat([self.keys, keys], dim=-2)
                values = torch.cat([self.values, values], dim=-2)
            end = min(kept + new, self.sliding_window - 1)
            self._rooms = tuple(
                _room(states[:, :, states.shape[-2] - end :], end + self._behind)
                for states in (keys, values)
            )
        self._end = end
        first = max(0, end - self.sliding_window + 1, end - kept - new)
        self.keys, self.values = (room[:, :, first:end] for room in self._rooms)
        return keys, values


def _room(states: torch.Tensor, tokens: int) -> torch.Tensor:
    """Make room, (batch, heads, tokens, d), with the states at its beginning."""
    room = states.new_empty(*states.shape[:2], tokens, states.shape[-1])
    room[:, :, : states.shape[-2]] = states
    return room
