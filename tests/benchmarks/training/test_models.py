"""The published models have as many parameters as published, and each of them learns."""

import pytest
import torch

from benchmarks.training import models

SEVEN = tuple(models.PUBLISHED_PARAMETERS)
LARGE = [name for name in SEVEN if name != "mobilenet"]


def test_the_seven_and_a_tiny_one() -> None:
    assert (*SEVEN, "tiny") == models.NAMES


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ValueError, match=r"no model 'alexnet'; there is vgg16, resnet18, "):
        models.build("alexnet")


@pytest.mark.parametrize("name", SEVEN)
def test_parameters_are_as_published(name: str) -> None:
    millions = models.num_parameters(models.build(name)) / 1e6
    assert abs(millions - models.PUBLISHED_PARAMETERS[name]) < 0.1


@pytest.mark.parametrize(
    "name", ["tiny", "mobilenet", *(pytest.param(name, marks=pytest.mark.real) for name in LARGE)]
)
def test_one_training_step(name: str) -> None:
    """The loss is finite; every parameter has a gradient and changes."""
    torch.manual_seed(0)
    model = models.build(name, num_classes=7)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scores = model(torch.randn(2, 3, 32, 32))
    assert scores.shape == (2, 7) and scores.dtype == torch.float32
    loss = torch.nn.functional.cross_entropy(scores, torch.arange(2))
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    for old, (name, parameter) in zip(before, model.named_parameters(), strict=True):
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        assert not torch.equal(old, parameter), name


@pytest.mark.parametrize("name", models.NAMES)
def test_the_first_convolution_keeps_the_resolution(name: str) -> None:
    convolutions = [m for m in models.build(name).modules() if isinstance(m, torch.nn.Conv2d)]
    assert convolutions[0].stride == (1, 1) and convolutions[0].in_channels == 3
