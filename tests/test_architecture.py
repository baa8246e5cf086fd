"""What becomes of a module before it is traced."""

import pytest
import torch

from mobconv.errors import UsageError
from mobconv.model import factory


def test_weight_norm_becomes_plain_weights_with_the_same_outputs():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(3, 4, 3))).eval()
    image = torch.rand(1, 3, 8, 8)
    before = module(image)
    factory.settle(module)
    assert "0.weight" in dict(module.named_parameters())
    assert torch.equal(module(image), before)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nets_of_nobody:net", "the folder that mobconv is started in"),
        ("my_nets.py:net", r"without the suffix: my_nets:"),
    ],
)
def test_a_module_that_is_not_found_says_where_it_is_looked_for(name, said):
    with pytest.raises(UsageError, match=said):
        factory.build(name, {})
