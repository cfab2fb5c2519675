"""Spellings of mixers: canonical forms, and errors that name the value and the way out."""

import pytest

from glm_kernels import PatternError
from glm_scale.errors import UserError
from glm_scale.mixers import MixerError, parse_hybrid, parse_mixer


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("attention", "attention"),
        (" local: 128 ", "local:128"),
        ("ssm", "ssm"),
        ("ssm:64", "ssm"),
        ("ssm: 0128", "ssm:128"),
        ("window:064", "window:64"),
        ("dense", "dense"),
        ("local:128>lattice:2^k", "local:128 > lattice:2^k"),
        ("attention  >  window:4", "attention > window:4"),
    ],
)
def test_spellings_have_one_canonical_form(spelling, name):
    assert parse_mixer(spelling).name == name
    assert parse_mixer(parse_mixer(spelling).name).name == name


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("latice:2^k", r"unknown mixer 'latice' .*did you mean 'lattice:f'.* known are attention, local:w"),
        ("mamba", r"unknown mixer 'mamba' in 'mamba' \(did you mean 'mamba2:N'\?\); known are"),
        ("rwkv", r"unknown mixer 'rwkv' in 'rwkv'; known are"),
        ("", r"unknown mixer ''"),
        ("attention:64", r"'attention:64': attention takes no argument; .* local:64"),
        ("local", r"'local': local needs a whole number of tokens"),
        ("local:0", r"'local:0': local needs a whole number of tokens"),
        ("local:2.5", r"'local:2.5': local needs a whole number of tokens"),
        ("ssm:", r"'ssm:': ssm takes its state expansion, a whole number"),
        ("ssm:4.5", r"'ssm:4.5': ssm takes its state expansion, a whole number"),
        ("lattice:2^k > local:8", r"'lattice:2\^k' cannot stand before '>'"),
        ("local:8 > attention", r"'attention' cannot stand behind '>'.* 'local:8 > lattice:2\^k'"),
        ("local:8 > local:4 > dense", r"has 3 parts"),
        ("local:8 >", r"unknown mixer '' in 'local:8 >'"),
    ],
)
def test_a_wrong_spelling_names_the_value_and_the_way_out(spelling, message):
    with pytest.raises(MixerError, match=message) as caught:
        parse_mixer(spelling)
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize(
    "mixers",
    [
        ("attention",),
        ("lattice:k^2+1", "attention"),
        ("local:128 > lattice:2^k", "offsets:k^2+1", "ssm:32"),
        ("window:3", "window:3"),
    ],
)
def test_the_name_of_a_hybrid_tells_its_mixers(mixers):
    assert [spec.name for spec in parse_hybrid("+".join(mixers))] == [*mixers]


def test_errors_of_a_pattern_show_their_place():
    with pytest.raises(PatternError, match=r"lattice:2k"):
        parse_mixer("lattice:2k")
