"""BCa bootstrap intervals of means, of many samples at once (docs/science.md, section 6).

`scipy.stats.bootstrap` gives the same intervals with the same generator, of many samples at once too (`axis`), but it
looks up every value of every resample, and makes every sample with one value left out. Here a resample is a row of
counts of how often each value is drawn, drawn once for all samples of one size, so that the means of all resamples of
all samples are one product of matrices, and what leaving a value out does to a mean is known without doing it.
"""

import os
import tempfile
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.special import ndtr, ndtri

CONFIDENCE = 0.95
_BLOCK_ELEMENTS = 2_000_000
_ROWS_AT_ONCE = 200
_VALUES_AT_ONCE = 1000
_SAMPLES_ELEMENTS = 4_000_000
_LEAST_SAMPLES = 16
_COUNTED_ELEMENTS = 2**15
_CACHE_BYTES = 256 * 2**20
_FILE_BYTES = 2 * 2**30


class Bootstrap:
    """Draws `resamples` from a generator seeded with `seed`, anew for each size of sample.

    What is drawn is kept for the next samples of that size: up to 256 MiB in memory, up to 2 GiB in a temporary file;
    what takes more is drawn again, the same. Threads may share one.
    """

    def __init__(self, resamples: int, seed: int | list[int]) -> None:
        self.resamples = resamples
        self.seed = seed
        self._drawn: OrderedDict[int, UInt8[np.ndarray, "resamples n"]] = OrderedDict()
        self._met: set[int] = set()
        self._files: dict[int, IO[bytes]] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Travels to other processes without what it has drawn."""
        return Bootstrap, (self.resamples, self.seed)

    def intervals(self, samples: Float[np.ndarray, "samples n"]) -> Float[np.ndarray, "samples 2"]:
        """The 95 % BCa interval of the mean of every sample; samples hold no NaN.

        The values of each are sorted first, so their order does not matter. NaN with fewer than two values; where all
        are equal, that value.
        """
        samples = np.sort(samples, axis=1)
        found = np.full((len(samples), 2), np.nan)
        if samples.shape[1] < 2:
            return found
        # A spread that is rounding alone would make the acceleration of BCa a quotient of noise.
        spread = samples[:, -1] - samples[:, 0] > 1e-12 * np.maximum(1.0, _largest(samples))
        found[~spread] = samples[~spread].mean(axis=1)[:, None]
        step = max(_LEAST_SAMPLES, _SAMPLES_ELEMENTS // max(self.resamples, samples.shape[1]))
        places = np.flatnonzero(spread)
        for start in range(0, len(places), step):
            block = places[start : start + step]
            exact = _exactly_summable(samples[block])
            found[block] = _bca(exact, self._means(exact))
        return found

    def _means(self, samples: Float[np.ndarray, "samples n"]) -> Float[np.ndarray, "resamples samples"]:
        """The mean of every resample of every sample."""
        count, n = samples.shape
        means, start = np.zeros((self.resamples, count)), 0
        for block in self._blocks(n):
            of_block = means[start : start + len(block)]
            # So many values at a time that counts, as floating-point numbers, stay in a core's cache.
            for at in range(0, n, _VALUES_AT_ONCE):
                of_block += (
                    block[:, at : at + _VALUES_AT_ONCE].astype(np.float64) @ samples.T[at : at + _VALUES_AT_ONCE]
                )
            start += len(block)
        return means / n

    def _blocks(self, n: int) -> Iterator[UInt8[np.ndarray, "_ n"]]:
        """The counts of the resamples, some at a time."""
        rows, size = max(1, _BLOCK_ELEMENTS // n), self.resamples * n
        file = self._drawn_to_file(n, rows) if size > _CACHE_BYTES else None
        if file is not None:
            for start in range(0, size, _ROWS_AT_ONCE * n):
                block = os.pread(file.fileno(), min(_ROWS_AT_ONCE * n, size - start), start)
                yield np.frombuffer(block, np.uint8).reshape(-1, n)
        elif size > _CACHE_BYTES:
            yield from self._draw(n, rows)
        else:
            drawn = self._drawn_to_memory(n, rows)
            for start in range(0, len(drawn), _ROWS_AT_ONCE):
                yield drawn[start : start + _ROWS_AT_ONCE]

    def _drawn_to_memory(self, n: int, rows: int) -> UInt8[np.ndarray, "resamples n"]:
        with self._lock:
            if n not in self._drawn:
                self._drawn[n] = counts = np.empty((self.resamples, n), np.uint8)
                for place, block in enumerate(self._draw(n, rows)):
                    counts[place * rows : (place + 1) * rows] = block
                while sum(x.nbytes for x in self._drawn.values()) > _CACHE_BYTES:
                    self._drawn.popitem(last=False)
            self._drawn.move_to_end(n)
            return self._drawn[n]

    def _drawn_to_file(self, n: int, rows: int) -> IO[bytes] | None:
        """A file without a name, for a size that is met again; None where it is not, or there is no room."""
        with self._lock:
            if n not in self._met:
                self._met.add(n)
                return None
            if n not in self._files and self.resamples * (n + sum(self._files)) <= _FILE_BYTES:
                file = tempfile.TemporaryFile(prefix="raydual-bootstrap-")  # noqa: SIM115  # closed with the bootstrap
                weakref.finalize(self, file.close)
                if self._write(file.fileno(), n, rows):
                    self._files[n] = file
            return self._files.get(n)

    def _write(self, file: int, n: int, rows: int) -> bool:
        """Write what is drawn to a file descriptor, or nothing where there is no room for all."""
        for place, block in enumerate(self._draw(n, rows)):
            try:
                whole = os.pwrite(file, block.data, place * rows * n) == block.nbytes
            except OSError:
                whole = False
            if not whole:
                os.ftruncate(file, 0)
                return False
        return True

    def _draw(self, n: int, rows: int) -> Iterator[UInt8[np.ndarray, "_ n"]]:
        """How often each of n values is in each resample (256 times or more is out of the question)."""
        rng = np.random.default_rng(self.seed)
        for start in range(0, self.resamples, rows):
            drawn = rng.integers(0, n, (min(rows, self.resamples - start), n))
            yield _counts(drawn)


def _counts(drawn: Int[np.ndarray, "rows n"]) -> UInt8[np.ndarray, "rows n"]:
    """How often each of 0, …, n - 1 is in each row; so many rows at a time that the counts stay in a core's cache."""
    n = drawn.shape[1]
    counts, together = np.empty(drawn.shape, np.uint8), max(1, _COUNTED_ELEMENTS // n)
    for start in range(0, len(drawn), together):
        rows = drawn[start : start + together]
        shifted = rows + np.arange(len(rows))[:, None] * n
        counts[start : start + together] = np.bincount(shifted.ravel(), minlength=rows.size).reshape(rows.shape)
    return counts


def _bca(
    samples: Float[np.ndarray, "samples n"], means: Float[np.ndarray, "resamples samples"]
) -> Float[np.ndarray, "samples 2"]:
    """Efron's bias-corrected and accelerated percentiles of resampled means."""
    mean = samples.mean(axis=1)
    below = ((means < mean).mean(axis=0) + (means <= mean).mean(axis=0)) / 2
    bias = ndtri(below)
    # Leaving one value out moves the mean by its deviation over n - 1.
    moved = samples - mean[:, None]
    acceleration = (moved**3).sum(axis=1) / (6 * (moved**2).sum(axis=1) ** 1.5)
    tails = ndtri((1 - CONFIDENCE) / 2) * np.array([[1.0], [-1.0]])
    shares = ndtr(bias + (bias + tails) / (1 - acceleration * (bias + tails)))
    means = np.sort(means, axis=0)
    # Linear interpolation between order statistics.
    at = np.nan_to_num(shares * (len(means) - 1))
    lower = np.floor(at).astype(int)
    upper = np.minimum(lower + 1, len(means) - 1)
    columns = np.arange(len(samples))
    ends = means[lower, columns] + (at - lower) * (means[upper, columns] - means[lower, columns])
    return np.where(np.isnan(shares), np.nan, ends).T


def _largest(samples: Float[np.ndarray, "samples n"]) -> Float[np.ndarray, "samples"]:
    """The largest magnitude in each sorted sample."""
    return np.maximum(-samples[:, 0], samples[:, -1])


def _exactly_summable(samples: Float[np.ndarray, "samples n"]) -> Float[np.ndarray, "samples n"]:
    """The values of sorted samples on a grid (relative step 1.5e-11): sums of up to 2^17 of them have no rounding.

    A resample that is a permutation of the sample has the sample's own mean. BCa counts such ties as half, and
    without rounding they are ties; else the interval of few values would hang on the last bit of each.
    """
    step = 2.0 ** (np.ceil(np.log2(_largest(samples)[:, None])) - 36)
    return np.round(samples / step) * step
