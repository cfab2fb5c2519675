"""The gate before flash-linear-attention: what is missing and what is known to be wrong is refused, and said."""

from types import SimpleNamespace

import pytest
import torch

from glm_kernels import fla


@pytest.fixture
def machine(monkeypatch):
    """Makes fla see a machine with the given versions and GPU."""

    def make(core="0.6.0", triton="3.7.1", capability=(9, 0)):
        versions = {"fla-core": core, "triton": triton}
        monkeypatch.setattr(fla, "_installed", lambda name: fla._parsed(versions[name]) if versions.get(name) else None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        major = capability[0] if capability else None
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=major))

    return make


def test_what_is_missing_is_said(machine):
    machine(core=None)
    assert "pip install glm-scale[fla]" in (fla.why_not("gla") or "")
    machine(core="0.5.1")
    assert "0.5.1 is too old" in (fla.why_not("gla") or "")
    machine(capability=None)
    assert "needs a GPU" in (fla.why_not("gla") or "")
    machine(triton=None)
    assert "needs triton" in (fla.why_not("gla") or "")


@pytest.mark.parametrize("name", ["simple_gla", "gated_delta_rule"])
@pytest.mark.parametrize(
    ("triton", "capability", "wrong"),
    [
        ("3.3.1", (9, 0), False),
        ("3.4.0", (9, 0), True),
        ("3.6.0", (9, 0), True),
        ("3.7.0+git1234", (9, 0), True),
        ("3.7.1", (9, 0), False),
        ("3.10.0", (9, 0), False),
        ("3.6.0", (8, 0), False),
    ],
)
def test_gradients_known_to_be_wrong_are_refused(name, triton, capability, wrong, machine):
    machine(triton=triton, capability=capability)
    reason = fla.why_not(name)
    assert (reason is not None) == wrong
    if wrong:
        assert reason is not None
        assert "Hopper" in reason
        assert "issues 640" in reason
        with pytest.raises(fla.FlaError, match=f"fla's {name}: with Triton 3"):
            fla.operator(name)
    assert fla.why_not(name, gradients=False) is None


def test_an_operator_that_is_none_is_refused():
    with pytest.raises(ValueError, match="'delta'; known are simple_gla, gla"):
        fla.why_not("delta")
