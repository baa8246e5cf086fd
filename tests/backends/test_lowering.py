"""Operations that coremltools refuses or gets wrong: both Core ML formats compute what PyTorch does."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mobconv


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 4, num_layers=2, bidirectional=True, batch_first=True)
        self.gru, self.rnn = nn.GRU(8, 5, batch_first=True), nn.RNN(5, 4, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.rnn(self.gru(self.lstm(x)[0])[0])[0][:, -1])


class Attention(nn.Module):
    """A causal mask computed in forward, a Boolean mask that depends on the input, and confident scores."""

    def __init__(self):
        super().__init__()
        self.emb, self.att, self.head = nn.Linear(6, 8), nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 4)

    def forward(self, x):
        h = self.emb(x)
        mask = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
        h = self.att(h, h, h, attn_mask=mask, need_weights=False)[0]
        keep = (x.sum(-1) > -1)[:, None, None]
        h = F.scaled_dot_product_attention(h[:, None], h[:, None], h[:, None], attn_mask=keep)[:, 0]
        return F.log_softmax(400 * self.head(h.mean(1)), 1)


class Convolutions(nn.Module):
    """Poolings without a stride or with dilation, and even kernels with `same` padding."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, (4, 2), padding="same"), nn.Conv1d(4, 6, 4, padding="same", dilation=3)

    def forward(self, x):
        x = F.max_pool2d(F.max_pool2d(self.a(x), (3, 2), (1, 1), 1, (2, 3)), 2)
        return self.b(F.max_pool1d(x.flatten(2), 3))


class Scaled(nn.Module):
    """A factor behind a convolution, as PoolFormer's layer scale, which coremltools multiplies into the weight."""

    def __init__(self):
        super().__init__()
        self.layer, self.scale = nn.Conv2d(3, 8, 1), nn.Parameter(torch.rand(8) + 0.5)

    def forward(self, x):
        return x.mean(1, keepdim=True) + self.scale[:, None, None] * self.layer(x)


class Masked(nn.Module):
    """A mask of ones, of `&` and of `where` with a number, as the transformers library builds them."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        h = self.first(x)
        keep = h.new_ones([4, 5], dtype=torch.bool) & (h > -0.5)
        return self.last(torch.softmax(torch.where(keep, torch.ops.aten.alias(h), -100.0), -1))


@pytest.mark.parametrize("name", ["coreml", "coreml-mlmodel"])
@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (Recurrent, (1, 4, 6)),
        (Attention, (1, 5, 6)),
        (Convolutions, (1, 3, 8, 12)),
        (Masked, (1, 4, 6)),
        (Scaled, (1, 3, 6, 5)),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_it_computes_what_pytorch_does(network, shape, name, tmp_path):
    torch.manual_seed(0)
    net = network().eval()
    (row,) = mobconv.export(net, torch.zeros(shape), to=name, out=tmp_path)
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(x)).numpy()
    with mobconv.open(row.path) as artifact:
        outputs = artifact.run({artifact.inputs[0].name: x})["logits"]
    assert np.isfinite(expected).all()
    # a hundred roundings of fp32
    assert np.abs(outputs - expected).max() <= 1e-5 * np.abs(expected).max()
