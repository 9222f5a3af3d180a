"""The two range coders: each gives back what it was given, and both write the same bytes."""

from __future__ import annotations

import random

import numpy as np
import pytest

from splitnn.transport import rans
from splitnn.transport.distributions import QUARTERS, SHARES, SPREADS, logistic, spreads, yes_or_no
from splitnn.transport.rans import CompiledCoder, Distribution, PlainCoder


def a_distribution(random_numbers: np.random.Generator) -> Distribution:
    return Distribution.near(random_numbers.dirichlet(np.full(int(random_numbers.integers(2, 257)), 0.3)))


def test_the_compiled_and_the_plain_coder_write_the_same_words_and_read_each_other() -> None:
    pytest.importorskip("constriction")
    seed = random.randrange(2**31)
    print(f"seed {seed}")
    chance = np.random.default_rng(seed)
    for _ in range(50):
        parts = []
        for _ in range(chance.integers(1, 6)):
            distribution = a_distribution(chance)
            share = distribution.frequencies / distribution.frequencies.sum()
            symbols = chance.choice(len(share), size=chance.integers(0, 200), p=share).astype(np.int32)
            parts.append((symbols, distribution))
        plain, compiled = PlainCoder(), CompiledCoder()
        for symbols, distribution in reversed(parts):
            plain.push(symbols, distribution)
            compiled.push(symbols, distribution)
        assert np.array_equal(plain.words(), compiled.words())
        for coder in (PlainCoder(compiled.words()), CompiledCoder(plain.words())):
            for symbols, distribution in parts:
                assert np.array_equal(coder.pop(len(symbols), distribution), symbols)
            assert len(coder.words()) == 0


def test_both_coders_read_the_same_out_of_any_words() -> None:
    pytest.importorskip("constriction")
    seed = random.randrange(2**31)
    print(f"seed {seed}")
    chance = np.random.default_rng(seed)
    for _ in range(100):
        words = chance.integers(1, 2**32, size=chance.integers(0, 20), dtype=np.uint32)
        distribution = a_distribution(chance)
        plain, compiled = PlainCoder(words), CompiledCoder(words)
        for count in (1, 30, 200):
            assert np.array_equal(plain.pop(count, distribution), compiled.pop(count, distribution))


def test_code_length_is_the_entropy_and_a_few_bytes() -> None:
    chance = np.random.default_rng(7)
    distribution = a_distribution(chance)
    share = distribution.frequencies / distribution.frequencies.sum()
    symbols = chance.choice(len(share), size=5000, p=share).astype(np.int32)
    coder = rans.new_coder()
    coder.push(symbols, distribution)
    least = distribution.bits[symbols].sum() / 8
    assert least <= 4 * len(coder.words()) <= least + 8


def test_frequencies_that_do_not_add_up_are_refused() -> None:
    for frequencies in ([2**24 - 1], [2**24, 0], [2**23, 2**23 + 1]):
        with pytest.raises(ValueError, match="add up"):
            Distribution(np.array(frequencies))


def test_logistic_distributions_have_their_mean_and_spread() -> None:
    numbers = np.arange(-128, 128)
    for spread in range(0, SPREADS, 5):
        for quarter in range(QUARTERS):
            share = logistic(spread * QUARTERS + quarter).frequencies / 2**24
            edges = np.concatenate((numbers - 0.5, [127.5]))
            with np.errstate(over="ignore"):
                exact = np.diff(1 / (1 + np.exp(-(edges - quarter / 4) / float(spreads()[spread]))))
            assert np.abs(share - exact / exact.sum()).max() < 1e-4


def test_rare_events_have_the_probability_that_was_said() -> None:
    for index, share in enumerate(SHARES):
        assert yes_or_no(index).frequencies[0] / 2**24 == pytest.approx(share, abs=1e-6)
